// Package bench measures the library, each benchmark beside its baseline in
// the same process:
//
//   - Protect against the bare handler and against alexedwards/scs,
//   - Proxy against a bare httputil.ReverseProxy with the same transport, and
//     in BenchmarkPeers against nginx as well, over sizes, numbers of connections
//     and protocols,
//   - a sign-in against x/oauth2 and go-oidc in a handler of a hundred lines,
//   - 200 requests on one expired token against the same,
//   - the memory of a session against scs,
//   - 10,000 idle streams of events, and the end of 10,000 sessions.
//
// The issuer is package bfftest's, in the process. From the root of the
// repository, this makes the table of the README:
//
//	go run ./internal/bench/table [-passes 3] [-write README.md]
package bench
