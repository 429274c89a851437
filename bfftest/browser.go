package bfftest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// A Browser visits an application and its issuer as a person does. It follows
// redirects, keeps cookies, and says in each request where it comes from (Fetch
// Metadata), as Chromium does. It runs no scripts: [Browser.Fetch] does what
// one would.
//
// Its methods run concurrently, but a browser shows one page at a time; for
// more of them there is [Browser.Tab].
type Browser struct {
	iss  *Issuer
	app  http.Handler // nil: at the other end of next
	base *url.URL
	jar  *jar

	mu     sync.Mutex
	others map[string]http.Handler
	next   http.RoundTripper
	page   *Response // nil: a blank one
	hops   []Hop
}

// NewBrowser returns a browser with no cookies. The application at appURL, an
// origin such as https://app.example.com, is served by app in the process, or
// over the network if app is nil; so is the issuer, over the network once it
// was started. NewBrowser panics if appURL is no origin.
func NewBrowser(app http.Handler, appURL string, iss *Issuer) *Browser {
	u, err := url.Parse(appURL)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		panic(fmt.Sprintf("bfftest: %q is not an origin such as https://app.example.com", appURL))
	}
	u.Path = "/"
	b := &Browser{iss: iss, app: app, base: u, jar: &jar{}, others: map[string]http.Handler{}}
	if app == nil {
		b.next = http.DefaultTransport
	}
	return b
}

// Via sets the transport to all hosts that are not served in the process, such
// as that of an httptest.Server's client.
func (b *Browser) Via(next http.RoundTripper) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = next
}

// Serve adds another origin to the process: an attacker's site, say.
func (b *Browser) Serve(origin string, h http.Handler) {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		panic(fmt.Sprintf("bfftest: %q is not an origin", origin))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.others[originOf(u)] = h
}

// Tab returns a blank tab of the same browser: it shares the cookies.
func (b *Browser) Tab() *Browser {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &Browser{iss: b.iss, app: b.app, base: b.base, jar: b.jar, others: maps.Clone(b.others), next: b.next}
}

// roundTrip sends req to where its host is.
func (b *Browser) roundTrip(req *http.Request) (*http.Response, error) {
	b.mu.Lock()
	n := &network{handlers: maps.Clone(b.others), next: b.next}
	b.mu.Unlock()
	if b.iss != nil {
		if u, err := url.Parse(b.iss.BaseURL()); err == nil && originOf(u) == originOf(req.URL) {
			return b.iss.Transport().RoundTrip(req)
		}
	}
	if b.app != nil {
		n.handlers[originOf(b.base)] = b.app
	}
	return n.RoundTrip(req)
}

// A Response is an answer that was read to its end. One with Status 0 never
// came, or broke off, and Err says why.
type Response struct {
	Status int
	Header http.Header
	Body   []byte // at most 16 MiB
	URL    *url.URL
	Hops   []Hop // the requests that led here, this one included
	Err    error
}

// A Hop is one request of a navigation, and its answer.
type Hop struct {
	Method string
	URL    *url.URL
	Sent   http.Header // of the request, cookies included
	Status int
	Header http.Header // of the answer

	// Refused says which cookies of the answer the browser didn't take, and why.
	Refused []string
}

// Reason returns the reason that the bff library gave for a rejection.
func (r *Response) Reason() string { return r.Header.Get("BFF-Reason") }

// JSON decodes the body into v.
func (r *Response) JSON(v any) error { return json.Unmarshal(r.Body, v) }

// String describes r in a line, for messages of tests. It may hold secrets:
// the query of the URL and what the page says.
func (r *Response) String() string {
	if r.Err != nil {
		return fmt.Sprintf("no answer from %s: %v", r.URL, r.Err)
	}
	text := fmt.Sprintf("%d from %s", r.Status, r.URL)
	if reason := r.Reason(); reason != "" {
		text += ", BFF-Reason " + reason
	}
	if len(r.Body) > 0 {
		text += fmt.Sprintf(", %.300q", visible(r.Body))
	}
	return text
}

var markup = regexp.MustCompile(`(?is)<(style|script|title)\b.*?</(style|script|title)>|<[^>]*>|\s+`)

// visible returns what one reads on a page, roughly.
func visible(page []byte) string {
	return strings.Join(strings.Fields(html.UnescapeString(markup.ReplaceAllString(string(page), " "))), " ")
}

const (
	maxPage = 16 << 20
	maxHops = 20 // as browsers have it
)

// Navigate opens an address, as if it were typed: a path of the application or
// a URL.
func (b *Browser) Navigate(target string) *Response {
	return b.load(http.MethodGet, target, nil, nil)
}

// Click follows a link on the present page to a path of the application or a
// URL.
func (b *Browser) Click(target string) *Response {
	return b.load(http.MethodGet, target, b.Page(), nil)
}

// Post submits a form to a path of the application or a URL, as if the present
// page had one. With no page yet, it comes from the application's own.
func (b *Browser) Post(target string, form url.Values) *Response {
	from := b.Page()
	if from == nil {
		from = &Response{URL: b.base}
	}
	return b.load(http.MethodPost, target, from, form)
}

// Page returns what the last navigation led to, or nil.
func (b *Browser) Page() *Response {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.page
}

// Hops returns the requests of all navigations of this tab.
func (b *Browser) Hops() []Hop {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.hops)
}

var refresh = regexp.MustCompile(`(?i)<meta http-equiv="?refresh"? content="0; ?url=([^"]*)"`)

// load navigates to target from a page, nil for the address bar.
func (b *Browser) load(method, target string, from *Response, form url.Values) *Response {
	r := &Response{}
	u, err := b.base.Parse(target)
	if err != nil {
		r.Err = err
		return r
	}
	chain := []*url.URL{}
	for {
		chain = append(chain, u)
		r.URL = u
		if len(r.Hops) == maxHops {
			r.Err = errors.New("bfftest: too many redirects")
			break
		}
		location := b.hop(r, method, chain, from, form)
		if r.Err != nil {
			break
		}
		if location == "" {
			m := refresh.FindSubmatch(r.Body)
			if m == nil || r.Status != http.StatusOK {
				break
			}
			// The page itself navigates on.
			location, from, chain = html.UnescapeString(string(m[1])), &Response{URL: u, Header: r.Header}, nil
		}
		if u, err = u.Parse(location); err != nil {
			r.Err = err
			break
		}
		if r.Status == http.StatusSeeOther || method == http.MethodPost && r.Status != http.StatusTemporaryRedirect && r.Status != http.StatusPermanentRedirect {
			method, form = http.MethodGet, nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hops = append(b.hops, r.Hops...)
	if r.Err == nil {
		b.page = r
	}
	return r
}

// hop makes one request of a navigation, the last of chain, puts its answer
// into r, and returns where it redirects to, if it does.
func (b *Browser) hop(r *Response, method string, chain []*url.URL, from *Response, form url.Values) (location string) {
	u := chain[len(chain)-1]
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, u.String(), body)
	if err != nil {
		r.Err = err
		return ""
	}
	h := req.Header
	h.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	h.Set("Accept-Language", "en")
	h.Set("Upgrade-Insecure-Requests", "1")
	if method == http.MethodPost {
		h.Set("Content-Type", "application/x-www-form-urlencoded")
		h.Set("Origin", formOrigin(from, chain))
	}
	var initiator *url.URL
	if from != nil {
		initiator = from.URL
	}
	if trustworthy(u) {
		h.Set("Sec-Fetch-Site", fetchSite(initiator, chain))
		h.Set("Sec-Fetch-Mode", "navigate")
		h.Set("Sec-Fetch-Dest", "document")
		h.Set("Sec-Fetch-User", "?1")
	}
	// Chromium looks at the first and the last site, not at those between.
	sameSite := initiator == nil || siteOf(initiator) == siteOf(u)
	hop := Hop{Method: method, URL: u, Sent: h}
	res, err := b.send(req, b.jar.pick(u, sameSite, method == http.MethodGet))
	if err == nil {
		r.Status, r.Header, r.Body, err = res.StatusCode, res.Header, res.body, res.err
		hop.Status, hop.Header = res.StatusCode, res.Header
		hop.Refused = b.jar.store(u, res.Cookies())
	}
	r.Hops = append(r.Hops, hop)
	if err != nil {
		r.Status, r.Err = 0, err
		return ""
	}
	if r.Status >= 300 && r.Status < 400 {
		location = r.Header.Get("Location")
	}
	return location
}

type readResponse struct {
	*http.Response
	body []byte
	err  error
}

// send sends req with cookies and reads the answer.
func (b *Browser) send(req *http.Request, cookies []*http.Cookie) (*readResponse, error) {
	var pairs []string
	for _, c := range cookies {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	if len(pairs) > 0 {
		req.Header.Set("Cookie", strings.Join(pairs, "; "))
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", "Mozilla/5.0 (compatible; bfftest)")
	}
	res, err := b.roundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	return &readResponse{res, body, err}, nil
}

// formOrigin returns the Origin of a form that was sent from a page.
func formOrigin(from *Response, chain []*url.URL) string {
	origin := originOf(from.URL)
	for i, u := range chain[:len(chain)-1] {
		if originOf(u) != origin && originOf(u) != originOf(chain[i+1]) {
			return "null" // Fetch: a redirect between strangers
		}
	}
	if from.Header.Get("Referrer-Policy") == "no-referrer" {
		return "null"
	}
	return origin
}

// trustworthy reports whether browsers send Fetch Metadata to u.
func trustworthy(u *url.URL) bool {
	return u.Scheme == "https" || isLoopback(strings.ToLower(u.Hostname()))
}

// fetchSite returns the Sec-Fetch-Site of a request that went through chain
// (Fetch Metadata, section 2.3).
func fetchSite(initiator *url.URL, chain []*url.URL) string {
	if initiator == nil {
		return "none"
	}
	site := "same-origin"
	for _, u := range chain {
		switch {
		case originOf(u) == originOf(initiator):
		case siteOf(u) != siteOf(initiator):
			return "cross-site"
		default:
			site = "same-site"
		}
	}
	return site
}

// Fetch requests a path of the application, or a URL, as a script on one of its
// pages does with fetch: from the same origin, with cookies to nowhere else.
// The given header fields come on top; one with no values takes a field away.
// A redirect is returned, not followed.
func (b *Browser) Fetch(method, target string, body io.Reader, header http.Header) *Response {
	r := &Response{}
	u, err := b.base.Parse(target)
	if err != nil {
		r.Err = err
		return r
	}
	r.URL = u
	req, err := http.NewRequest(method, u.String(), body)
	if err != nil {
		r.Err = err
		return r
	}
	if body != nil {
		req.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	b.fetchHeader(req)
	for name, values := range header {
		name = http.CanonicalHeaderKey(name)
		if req.Header[name] = values; len(values) == 0 {
			delete(req.Header, name)
		}
	}
	ours := originOf(u) == originOf(b.base)
	var cookies []*http.Cookie
	if _, own := header["Cookie"]; ours && !own {
		cookies = b.jar.pick(u, true, false)
	}
	hop := Hop{Method: method, URL: u, Sent: req.Header}
	res, err := b.send(req, cookies)
	if err == nil {
		r.Status, r.Header, r.Body, err = res.StatusCode, res.Header, res.body, res.err
		hop.Status, hop.Header = res.StatusCode, res.Header
		if ours {
			hop.Refused = b.jar.store(u, res.Cookies())
		}
	}
	r.Hops = []Hop{hop}
	if err != nil {
		r.Status, r.Err = 0, err
	}
	return r
}

// fetchHeader adds what a browser adds to a script's request, where req
// doesn't say otherwise.
func (b *Browser) fetchHeader(req *http.Request) {
	set := func(name, value string) {
		if _, ok := req.Header[name]; !ok {
			req.Header.Set(name, value)
		}
	}
	set("Accept", "*/*")
	site := fetchSite(b.base, []*url.URL{req.URL})
	if trustworthy(req.URL) {
		set("Sec-Fetch-Site", site)
		set("Sec-Fetch-Mode", "cors")
		set("Sec-Fetch-Dest", "empty")
	}
	// Browsers leave it out of what is harmless and at home.
	if site != "same-origin" || req.Method != "" && req.Method != http.MethodGet && req.Method != http.MethodHead {
		set("Origin", originOf(b.base))
	}
}

// Cookies returns the cookies that the application's origin gets from its own
// pages, with their attributes.
func (b *Browser) Cookies() []*http.Cookie {
	u := *b.base
	b.jar.mu.Lock()
	var paths []string
	for _, k := range b.jar.cookies {
		paths = append(paths, k.Path)
	}
	b.jar.mu.Unlock()
	seen := map[string]bool{}
	var cookies []*http.Cookie
	for _, path := range append(paths, "/") {
		u.Path = path
		for _, c := range b.jar.pick(&u, true, true) {
			if id := c.Name + "\n" + c.Path + "\n" + c.Domain; !seen[id] {
				seen[id] = true
				cookies = append(cookies, c)
			}
		}
	}
	return cookies
}

// SetCookie puts a cookie for the application into the browser, whatever the
// rules say of it: as an attacker does who found a way.
func (b *Browser) SetCookie(c *http.Cookie) {
	k := &kept{Cookie: *c, host: strings.ToLower(b.base.Hostname()), hostOnly: true}
	if k.Path == "" {
		k.Path = "/"
	}
	b.jar.mu.Lock()
	defer b.jar.mu.Unlock()
	b.jar.cookies = slices.DeleteFunc(b.jar.cookies, func(old *kept) bool {
		return old.Name == k.Name && old.host == k.host && old.Path == k.Path
	})
	b.jar.cookies = append(b.jar.cookies, k)
}

// ClearCookies forgets all cookies, the issuer's too.
func (b *Browser) ClearCookies() {
	b.jar.mu.Lock()
	defer b.jar.mu.Unlock()
	b.jar.cookies = nil
}

// Client returns a client that shares the browser's cookies and sends what a
// script's fetch sends, as [Browser.Fetch] does. What a request sets itself
// stays. It follows redirects, as clients do, and streams.
func (b *Browser) Client() *http.Client {
	return &http.Client{Transport: fetcher{b}, Jar: b.jar}
}

type fetcher struct{ b *Browser }

func (f fetcher) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context()) // a RoundTripper must not change it
	if req.Header == nil {
		req.Header = http.Header{}
	}
	f.b.fetchHeader(req)
	return f.b.roundTrip(req)
}

var (
	forms      = regexp.MustCompile(`(?is)<form\b([^>]*)>(.*?)</form>`)
	controls   = regexp.MustCompile(`(?is)<(input|button|select|textarea)\b([^>]*)>`)
	attributes = regexp.MustCompile(`(?is)([a-z-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)`)
)

func attributesOf(tag []byte) map[string]string {
	m := map[string]string{}
	for _, a := range attributes.FindAllSubmatch(tag, -1) {
		m[strings.ToLower(string(a[1]))] = html.UnescapeString(string(bytes.Trim(a[2], `"'`)))
	}
	return m
}

// Submit fills in and submits the form on the present page that has all the
// given fields, buttons among them. Its other fields keep their values.
func (b *Browser) Submit(fields url.Values) *Response {
	page := b.Page()
	if page == nil {
		return &Response{URL: b.base, Err: errors.New("bfftest: there is no page yet")}
	}
	for _, f := range forms.FindAllSubmatch(page.Body, -1) {
		values, names := url.Values{}, map[string]bool{}
		for _, c := range controls.FindAllSubmatch(f[2], -1) {
			a := attributesOf(c[2])
			names[a["name"]] = true
			if a["name"] != "" && strings.EqualFold(string(c[1]), "input") && !slices.Contains([]string{"submit", "checkbox", "radio", "file"}, a["type"]) {
				values.Add(a["name"], a["value"])
			}
		}
		fits := true
		for name, v := range fields {
			fits = fits && names[name]
			values[name] = v
		}
		if !fits {
			continue
		}
		form := attributesOf(f[1])
		target, err := page.URL.Parse(form["action"])
		if err != nil {
			return &Response{URL: page.URL, Err: err}
		}
		if !strings.EqualFold(form["method"], "post") {
			target.RawQuery = values.Encode()
			return b.load(http.MethodGet, target.String(), page, nil)
		}
		return b.load(http.MethodPost, target.String(), page, values)
	}
	return &Response{URL: page.URL, Err: fmt.Errorf("bfftest: no form with these fields on the page: %v", page)}
}
