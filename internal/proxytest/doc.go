// Package proxytest has the tests of the proxy that need other people's
// programs at both ends: gRPC, gRPC-Web and SignalR, and bodies of gigabytes.
// It is a module of its own, never published.
//
// SignalR's client is the one from npm, in ./signalr; "make setup" installs it.
package proxytest
