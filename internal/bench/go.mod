module github.com/agglestone/bff/internal/bench

go 1.26.0

require (
	github.com/agglestone/bff v0.0.0
	github.com/alexedwards/scs/v2 v2.9.0
	github.com/coreos/go-oidc/v3 v3.21.0
	github.com/redis/rueidis v1.0.79
	golang.org/x/oauth2 v0.37.0
)

require golang.org/x/sys v0.47.0 // indirect

require (
	github.com/agglestone/bff/store/redisstore v0.0.0
	github.com/go-jose/go-jose/v4 v4.1.9 // indirect
	github.com/gorilla/securecookie v1.1.2 // indirect
)

replace github.com/agglestone/bff => ../..

replace github.com/agglestone/bff/store/redisstore => ../../store/redisstore
