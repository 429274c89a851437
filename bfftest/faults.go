package bfftest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Fault is what goes wrong at one of the issuer's endpoints. Its fields add
// up, in the order in which they stand here. See [Issuer.Break].
type Fault struct {
	// Skip lets that many requests through first. Times is how many it meets
	// from then on; zero means all.
	Skip, Times int

	// When, if not nil, picks the requests. Their forms are parsed.
	When func(*http.Request) bool

	// Before is called, and then Delay waited for, before the request is
	// processed.
	Before func(*http.Request)
	Delay  time.Duration

	// BeforeProcessing leaves the request unprocessed: no code and no token is
	// spent. The answer is 503 unless Status or another field says otherwise.
	BeforeProcessing bool

	// EditIDToken and EditAccessToken change the tokens in the answer of the
	// token endpoint before they are signed.
	EditIDToken, EditAccessToken func(*Token)

	// EditCallback changes the parameters with which the user is led back to
	// the relying party. Adding to a name repeats it. It belongs to the endpoint
	// callback, where no other change is possible.
	EditCallback func(url.Values)

	// After is called, and then DelayAnswer waited for, when the request was
	// processed and the answer not yet sent.
	After       func(*http.Request)
	DelayAnswer time.Duration

	// Hang keeps the client waiting until it gives up.
	Hang bool

	// CloseBeforeAnswer breaks the connection: the answer is lost.
	CloseBeforeAnswer bool

	// Status, Header and Body replace those of the answer. A header with no
	// values goes away.
	Status int
	Header http.Header
	Body   string

	// Error answers with an OAuth error of this code. The status is 400 if
	// Status is zero.
	Error string

	// EditJSON changes an answer that is a JSON object. Numbers in it are of
	// type json.Number.
	EditJSON func(map[string]any)

	// EditBody changes the answer's body.
	EditBody func([]byte) []byte

	// BodySize adds spaces to the body until it has so many bytes. They are
	// made as they are sent.
	BodySize int64

	// CloseAfter breaks the connection after so many bytes of the body.
	CloseAfter int64

	// Drip is waited for before each byte of the body.
	Drip time.Duration
}

// A brokenness is a Fault at an endpoint. Issuer.mu guards its counters.
type brokenness struct {
	Fault
	endpoint  string
	seen, met int
}

var endpoints = []string{"discovery", "jwks", "authorize", "login", "callback", "token", "userinfo", "endsession", "revoke", "users"}

// Break has f happen to requests at an endpoint, as [Issuer.Count] names them,
// until heal is called or [Issuer.Heal]. Of several faults at an endpoint each
// is applied, in the order in which they came: Skip and Times make sequences of
// them. The functions in f may be called concurrently, and may call the issuer.
// Break panics if there is no such endpoint, or f can't happen there.
//
//	iss.Break("token:refresh_token", bfftest.Fault{Times: 1, CloseBeforeAnswer: true})
//	iss.Break("token", bfftest.Fault{EditIDToken: func(t *bfftest.Token) { t.Claims["aud"] = "other" }})
func (iss *Issuer) Break(endpoint string, f Fault) (heal func()) {
	name, _, _ := strings.Cut(endpoint, ":")
	switch {
	case !slices.Contains(endpoints, name):
		panic(fmt.Sprintf("bfftest: Break: no endpoint is called %q", endpoint))
	case (f.EditCallback != nil) != (name == "callback"):
		panic("bfftest: Break: EditCallback belongs to the endpoint callback, and to that alone")
	case (f.EditIDToken != nil || f.EditAccessToken != nil) && name != "token":
		panic("bfftest: Break: tokens are issued by the endpoint token alone")
	}
	b := &brokenness{Fault: f, endpoint: endpoint}
	iss.mu.Lock()
	defer iss.mu.Unlock()
	iss.faults = append(iss.faults, b)
	return func() {
		iss.mu.Lock()
		defer iss.mu.Unlock()
		iss.faults = slices.DeleteFunc(slices.Clone(iss.faults), func(other *brokenness) bool { return other == b })
	}
}

// Heal takes back all that [Issuer.Break] did.
func (iss *Issuer) Heal() {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	iss.faults = nil
}

// hits reports whether b meets r, and counts it.
func (b *brokenness) hits(iss *Issuer, r *http.Request) bool {
	if b.When != nil && !b.When(r) {
		return false
	}
	iss.mu.Lock()
	defer iss.mu.Unlock()
	if b.seen++; b.seen <= b.Skip || b.Times > 0 && b.met >= b.Times {
		return false
	}
	b.met++
	return true
}

// serve processes x with its faults, and answers.
func (iss *Issuer) serve(w http.ResponseWriter, x *exchange, process func(*exchange)) {
	processed := true
	for _, f := range x.faults {
		if f.Before != nil {
			f.Before(x.Request)
		}
		wait(x.Context(), f.Delay)
		processed = processed && !f.BeforeProcessing
	}
	if processed {
		process(x)
	} else {
		http.Error(x, "out of order", http.StatusServiceUnavailable)
	}
	for _, f := range x.faults {
		if f.After != nil {
			f.After(x.Request)
		}
		wait(x.Context(), f.DelayAnswer)
	}
	size, cut, drip := int64(0), int64(-1), time.Duration(0)
	for _, f := range x.faults {
		if f.Hang {
			<-x.Context().Done()
			panic(http.ErrAbortHandler)
		}
		if f.CloseBeforeAnswer {
			panic(http.ErrAbortHandler)
		}
		f.spoil(x)
		size = max(size, f.BodySize)
		drip += f.Drip
		if f.CloseAfter > 0 {
			cut = f.CloseAfter
		}
	}
	size = max(size, int64(x.body.Len()))
	for name, values := range x.header {
		w.Header()[name] = values
	}
	if _, ok := w.Header()["Content-Length"]; !ok {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	iss.edit(x.entry, func(r *Request) { r.Status = x.status })
	w.WriteHeader(x.status)
	if x.Method == http.MethodHead {
		return
	}
	send(x.Context(), w, x.body.Bytes(), size, cut, drip)
}

// spoil changes the answer of x as f says.
func (f *Fault) spoil(x *exchange) {
	if f.Body != "" {
		x.body.Reset()
		x.body.WriteString(f.Body)
	}
	if f.Error != "" {
		x.oauthError(http.StatusBadRequest, f.Error, "as the test wants")
	}
	if f.Status != 0 {
		x.status = f.Status
	}
	for name, values := range f.Header {
		name = http.CanonicalHeaderKey(name)
		if x.header[name] = values; len(values) == 0 {
			x.header[name] = nil // net/http adds a Date or a Content-Type otherwise
		}
	}
	if f.EditJSON != nil {
		object := map[string]any{}
		d := json.NewDecoder(bytes.NewReader(x.body.Bytes()))
		d.UseNumber()
		if d.Decode(&object) == nil {
			f.EditJSON(object)
			text, err := json.Marshal(object)
			if err != nil {
				panic("bfftest: EditJSON: " + err.Error())
			}
			x.body.Reset()
			x.body.Write(text)
		}
	}
	if f.EditBody != nil {
		body := f.EditBody(bytes.Clone(x.body.Bytes()))
		x.body.Reset()
		x.body.Write(body)
	}
}

// send writes body and spaces up to size. It breaks the connection after cut
// bytes, unless that is negative, and waits for drip before each byte.
func send(ctx context.Context, w http.ResponseWriter, body []byte, size, cut int64, drip time.Duration) {
	spaces := []byte(strings.Repeat(" ", 32<<10))
	flush := http.NewResponseController(w).Flush
	for sent := int64(0); sent < size; {
		chunk := spaces
		if sent < int64(len(body)) {
			chunk = body[sent:]
		}
		n := min(int64(len(chunk)), size-sent)
		if cut >= 0 {
			if n = min(n, cut-sent); n <= 0 {
				break
			}
		}
		if drip > 0 {
			n = 1
			wait(ctx, drip)
		}
		if _, err := w.Write(chunk[:n]); err != nil {
			return
		}
		sent += n
		if drip > 0 {
			flush()
		}
	}
	if cut >= 0 && cut < size {
		flush()
		panic(http.ErrAbortHandler)
	}
}

// wait waits for d, or until the client gave up.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}
