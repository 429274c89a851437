package main

import "fmt"

// A figure is one number that a benchmark reports.
type figure struct{ name, unit string } // without "Benchmark" and the processors

// A row is one comparison, or a figure by itself.
type row struct {
	what     string
	ours     figure
	baseline figure // zero: none
	than     string // what the baseline is
}

// A group is what one go test command measures.
type group struct {
	dir, pattern, benchtime string
}

// groups take a few minutes together. The times are for benchmarks whose
// figures are times; the others are counted once.
var groups = []group{
	{"internal/bench", "^Benchmark(Protect|ProtectWarm|Forged|SignIn)$", "1s"},
	{"internal/bench", "^BenchmarkProtectRedis$", "20000x"},
	{"internal/bench", "^BenchmarkProxy$", "20000x"},
	{"internal/bench", "^BenchmarkPeers$/^protocol=h1$/^size=(1|100)KB$/^conns=256$", "20000x"},
	{"internal/bench", "^BenchmarkRefreshStorm$", "20x"},
	{"internal/bench", "^Benchmark(Memory|Events)$", "1x"},
	{"internal/bench", "^BenchmarkEndSessions", "5x"},
	{"store/redisstore", "^BenchmarkLoad$", "20000x"},
	{"store/redisstore", "^BenchmarkContendedClaim$", "20000x"},
	{"internal/sqltest", "^BenchmarkLoad$", "5000x"},
	{"internal/sqltest", "^BenchmarkEndTagged$/^(postgres|mariadb)$", "1x"},
}

var rows = []row{
	protect("`Protect`, memory store of 1,000 sessions", "token=1KB/sessions=1000", "cpu-ns/op"),
	protect("the same of 1,000,000, asked for at random", "token=1KB/sessions=1000000", "cpu-ns/op"),
	protect("the same of 1,000, access tokens of 16 KB", "token=16KB/sessions=1000", "cpu-ns/op"),
	protect("allocations", "token=1KB/sessions=1000", "allocs/op"),
	{
		"`Protect` with `CacheSize`, any store that reports changes",
		figure{"ProtectWarm/sessions=1000", "cpu-ns/op"}, figure{"Protect/bff/token=1KB/sessions=1000", "cpu-ns/op"}, "without a cache",
	},
	{
		"the same, 100,000 sessions in the cache",
		figure{"ProtectWarm/sessions=100000", "cpu-ns/op"}, figure{"Protect/bff/token=1KB/sessions=1000000", "cpu-ns/op"}, "1,000,000 in the store",
	},
	{"`Protect`, Redis", figure{"ProtectRedis/bff", "ns/op"}, figure{"ProtectRedis/bare", "ns/op"}, "rueidis, GET of as much"},
	{"the same with `CacheSize`", figure{"ProtectRedis/cached", "ns/op"}, figure{"ProtectRedis/bare", "ns/op"}, "the same"},
	{"a forged cookie: 401 without a look at the store", figure{"Forged/bff", "cpu-ns/op"}, figure{"Forged/scs", "cpu-ns/op"}, "scs, which looks it up"},

	{"`Proxy`, 1 KB", figure{"Proxy/bff", "cpu-ns/op"}, figure{"Proxy/bare", "cpu-ns/op"}, "`httputil.ReverseProxy`, tuned"},
	{"the same", figure{"Proxy/bff", "cpu-ns/op"}, figure{"Proxy/bearer", "cpu-ns/op"}, "and with a header as long as a token"},
	{"the same with `CacheSize`", figure{"Proxy/cached", "cpu-ns/op"}, figure{"Proxy/bearer", "cpu-ns/op"}, "the same"},
	{"allocations", figure{"Proxy/bff", "allocs/op"}, figure{"Proxy/bearer", "allocs/op"}, "the same"},
	peer("`Proxy`, 1 KB, 256 connections", 1, "bearer", "the same"),
	peer("the same, 100 KB", 100, "bearer", "the same"),
	peer("`Proxy`, 1 KB, 256 connections", 1, "nginx", "nginx, without sign-in"),

	{"a sign-in, browser and issuer included", figure{"SignIn/bff", "cpu-ns/op"}, figure{"SignIn/oauth2", "cpu-ns/op"}, "x/oauth2 and go-oidc by hand"},
	{"200 requests on an expired token: token requests", figure{"RefreshStorm/bff", "token-requests/op"}, figure{"RefreshStorm/oauth2", "token-requests/op"}, "x/oauth2 by hand"},
	{"of them failed", figure{"RefreshStorm/bff", "failed/op"}, figure{"RefreshStorm/oauth2", "failed/op"}, "x/oauth2 by hand"},

	memory("memory of a session beyond its value, 100,000 of them", "sessions=100000"),
	memory("the same, 1,000,000 of them", "sessions=1000000"),
	{
		"the same and its entries under two tags",
		figure{"Memory/bff+tags/sessions=1000000", "beyond-B/session"}, figure{"Memory/bff/sessions=1000000", "beyond-B/session"}, "without tags",
	},

	events("an idle `GET /auth/events`, of 10,000: heap", "heap-B/stream"),
	events("stack", "stack-B/stream"),
	events("goroutines", "goroutines/stream"),
	{"processor time, each second", figure{"Events/bff", "cpu-ns/stream-s"}, figure{}, ""},
	{"all 10,000 closed after their sessions' end", figure{"Events/bff", "closed-ms"}, figure{}, ""},
	{"10,000 sessions of one subject ended, memory store", figure{"EndSessions/bff", "cpu-ns/op"}, figure{"EndSessions/bare", "cpu-ns/op"}, "the store by itself"},
	{"the same, Redis", figure{"EndSessionsRedis", "ns/op"}, figure{}, ""},
	{"the same, PostgreSQL: the store by itself", figure{"EndTagged/postgres", "ns/op"}, figure{}, ""},
	{"the same, MariaDB: the store by itself", figure{"EndTagged/mariadb", "ns/op"}, figure{}, ""},

	{"`Load`, Redis, 1 goroutine", figure{"Load/1", "ns/op"}, figure{"Load/1", "bare-ns/op"}, "rueidis, GET"},
	{"the same, 64 goroutines", figure{"Load/64", "ns/op"}, figure{"Load/64", "bare-ns/op"}, "rueidis, GET"},
	{"64 goroutines claim one refresh, Redis: each try", figure{"ContendedClaim", "ns/op"}, figure{"ContendedClaim", "bare-ns/op"}, "rueidis, SET"},
	load("`Load`, PostgreSQL, 1 goroutine", "postgres/1"),
	load("the same, 64 goroutines", "postgres/64"),
	load("`Load`, MariaDB, 1 goroutine", "mariadb/1"),
	load("the same, 64 goroutines", "mariadb/64"),
	load("`Load`, PostgreSQL behind PgBouncer, 1 goroutine", "pgbouncer/1"),
	load("the same, 64 goroutines", "pgbouncer/64"),
	load("`Load`, SQLite, 1 goroutine", "sqlite/1"),
	load("the same, 64 goroutines", "sqlite/64"),
}

func protect(what, which, unit string) row {
	return row{what, figure{"Protect/bff/" + which, unit}, figure{"Protect/scs/" + which, unit}, "alexedwards/scs"}
}

func peer(what string, kilobytes int, baseline, than string) row {
	of := func(peer string) figure {
		return figure{fmt.Sprintf("Peers/protocol=h1/size=%dKB/conns=256/peer=%s", kilobytes, peer), "cpu-ns/op"}
	}
	return row{what, of("bff"), of(baseline), than}
}

func memory(what, which string) row {
	return row{what, figure{"Memory/bff/" + which, "beyond-B/session"}, figure{"Memory/scs/" + which, "beyond-B/session"}, "alexedwards/scs"}
}

func events(what, unit string) row {
	return row{what, figure{"Events/bff", unit}, figure{"Events/bare", unit}, "a handler that waits"}
}

func load(what, which string) row {
	return row{what, figure{"Load/" + which, "Load-ns"}, figure{"Load/" + which, "bare-ns"}, "the driver, SELECT"}
}
