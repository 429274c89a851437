// Package faults breaks the store under the whole library: browsers and relying
// parties over real sockets, an issuer that is strict about rotation, and a real
// server that the tests start, kill, pause, fill and restart.
//
// Whatever happens to the server, a request is answered 503 store_unavailable
// within its bound, nobody is signed out, nobody sees another's session, and a
// second after the server's return all is as before.
package faults
