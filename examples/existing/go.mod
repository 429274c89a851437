module github.com/agglestone/bff/examples/existing

go 1.26.0

require (
	github.com/agglestone/bff v0.0.0
	github.com/alexedwards/scs/v2 v2.9.0
	github.com/go-chi/chi/v5 v5.5.0
)

require (
	github.com/coreos/go-oidc/v3 v3.21.0 // indirect
	github.com/go-jose/go-jose/v4 v4.1.9 // indirect
	github.com/gorilla/securecookie v1.1.2 // indirect
	golang.org/x/oauth2 v0.37.0 // indirect
)

replace github.com/agglestone/bff => ../..
