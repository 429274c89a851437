// Package e2e runs the gateway example in front of a real browser, with a real
// issuer, and looks at both from outside.
//
// The browser is Chromium, headless, with an empty profile for each test. The
// issuer is oidc-provider on Node, in a process of its own (issuer/server.mjs).
// The gateway is built from examples/gateway and configured by its environment
// alone. Everything that passes between browser and servers goes through
// fronts in the test process, which keep a copy: at the end of each test these
// copies, the browser's own view of its network, its cookies and storages and
// the gateway's log are searched for every token that the issuer says it
// issued.
//
// There are two lanes. In the TLS lane the app and the issuer live on two
// registrable domains, so that cross-site means cross-site and the cookies
// bear their production names. In the loopback lane everything is plain http
// on 127.0.0.1, as in development. Tests that need a gateway of another kind,
// or two of them with a Redis between, start a world of their own.
//
// Nothing outside this machine is contacted, and nothing on it is changed: no
// trust store, no hosts file. Node, Chromium and redis-server must be installed
// and issuer/node_modules filled; from the root of the repository, "make setup"
// does that and "make e2e" runs the tests.
package e2e
