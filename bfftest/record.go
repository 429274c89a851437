package bfftest

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Request is one request that the issuer received.
type Request struct {
	Time     time.Time
	Endpoint string // as for [Issuer.Count]
	Method   string
	Path     string
	Form     []string // names of the parameters of query and body, sorted

	// Auth is how it authenticated: none, client_secret_basic,
	// client_secret_post or bearer.
	Auth string

	ClientID  string
	GrantType string

	// Query has the parameters of requests to authorize and endsession.
	Query url.Values

	// Status is that of the answer, once there is one; it stays 0 when the
	// connection died instead.
	Status int
}

// keep bounds the log and the list of secrets.
const keep = 20000

// arrived files x in the log and picks the faults that it meets.
func (iss *Issuer) arrived(x *exchange) (*Request, []*Fault) {
	entry := &Request{
		Time: time.Now(), Endpoint: x.endpoint, Method: x.Method, Path: x.URL.Path, Auth: "none",
		Form: slices.Sorted(maps.Keys(x.Form)), GrantType: x.PostForm.Get("grant_type"),
	}
	if x.endpoint == "authorize" || x.endpoint == "endsession" {
		entry.Query = maps.Clone(x.Form)
	}
	if strings.HasPrefix(strings.ToLower(x.Request.Header.Get("Authorization")), "bearer ") {
		entry.Auth = "bearer"
	}
	names := []string{x.endpoint}
	if x.endpoint == "token" && entry.GrantType != "" {
		names = append(names, "token:"+entry.GrantType)
	}
	iss.mu.Lock()
	if len(iss.log) >= keep {
		iss.log = slices.Delete(iss.log, 0, keep/2)
	}
	iss.log = append(iss.log, entry)
	iss.mu.Unlock()
	return entry, iss.meet(x, names...)
}

// meet counts what happens at the named endpoints, and returns the faults that
// it meets there.
func (iss *Issuer) meet(x *exchange, names ...string) (faults []*Fault) {
	iss.mu.Lock()
	for _, name := range names {
		iss.counts[name]++
	}
	broken := slices.Clone(iss.faults)
	iss.mu.Unlock()
	for _, b := range broken {
		if slices.Contains(names, b.endpoint) && b.hits(iss, x.Request) {
			faults = append(faults, &b.Fault)
		}
	}
	return faults
}

// edit changes an entry of the log: others may be reading it.
func (iss *Issuer) edit(entry *Request, change func(*Request)) {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	change(entry)
}

// note keeps secrets for [Issuer.Secrets]. The caller holds mu.
func (iss *Issuer) note(secrets ...string) {
	if len(iss.secrets) >= keep {
		iss.secrets = slices.Delete(iss.secrets, 0, keep/2)
	}
	for _, s := range secrets {
		if s != "" {
			iss.secrets = append(iss.secrets, s)
		}
	}
}

// Count returns how many requests an endpoint has received: discovery, jwks,
// authorize, login (its page's form), token, token:authorization_code,
// token:refresh_token, userinfo, endsession, revoke or users. Requests that a
// [Fault] met count too. For callback it is how many answers of authorize and
// login led back to the relying party.
func (iss *Issuer) Count(endpoint string) int {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	return iss.counts[endpoint]
}

// Log returns the requests received, the oldest first.
func (iss *Issuer) Log() []Request {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	var log []Request
	for _, entry := range iss.log {
		log = append(log, *entry)
	}
	return log
}

// Secrets returns what must never leave the relying party, for tests that
// search its logs and pages: the codes and tokens issued, and the code
// verifiers and client secrets received.
func (iss *Issuer) Secrets() []string {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	return slices.Clone(iss.secrets)
}
