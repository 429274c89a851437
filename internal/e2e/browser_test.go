package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
)

// patience is how long a condition may take to come true.
const patience = 20 * time.Second

// findChromium looks where Linux distributions put it. That there is none is
// a failure of the set-up, not a reason to skip.
func findChromium(t *testing.T) string {
	t.Helper()
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatalf("no browser in PATH (%s); run \"make setup\"", strings.Join(names, ", "))
	return ""
}

// A visit is one test's browser: a Chromium with an empty profile, what it sent
// and received, and the place in the world's records where the test began.
type visit struct {
	*world
	t        *testing.T
	ctx      context.Context
	tabs     []*tab
	seenAt   int   // first exchange of this visit
	callsAt  int   // first call of the upstream
	logAt    []int // first byte of each gateway's log
	shots    int
	leaky    bool // a test of the search itself, which expects to find something
	mu       sync.Mutex
	received []item // what Chromium says it sent and got
	surfaces []item // what scripts and people could read, whenever we looked
}

// An item is a text that must hold no token, and where it was found.
type item struct {
	where string
	text  string
}

// A tab is one page of a visit.
type tab struct {
	v   *visit
	t   *testing.T
	ctx context.Context
}

// newVisit starts a browser. When the test ends, all that was seen during the
// visit is searched for tokens.
func newVisit(t *testing.T, w *world) *visit {
	t.Helper()
	return newVisitAt(t, w, w.app)
}

// newVisitAt is newVisit with another front for the app.
func newVisitAt(t *testing.T, w *world, app *front) *visit {
	t.Helper()
	v := &visit{world: w, t: t, seenAt: w.seen.len(), callsAt: w.upstream.len()}
	for _, g := range w.gateways {
		v.logAt = append(v.logAt, g.log.len())
	}
	w.issuer.reset(t)
	profile, err := os.MkdirTemp("", "bff-e2e-profile-")
	if err != nil {
		t.Fatal(err)
	}
	rules := []string{"MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"}
	for host, addr := range w.routes {
		if addr == w.app.addr {
			addr = app.addr
		}
		rules = append([]string{"MAP " + host + " " + addr}, rules...)
	}
	opts := slices.Clone(chromedp.DefaultExecAllocatorOptions[:])
	opts = append(opts,
		chromedp.ExecPath(findChromium(t)),
		chromedp.UserDataDir(profile),
		chromedp.Flag("host-resolver-rules", strings.Join(rules, ", ")),
		chromedp.Flag("ignore-certificate-errors-spki-list", w.ca.spki()),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("window-size", "1000,700"),
	)
	// Root can't have Chromium's sandbox, and some containers don't offer it.
	if os.Getuid() == 0 || os.Getenv("E2E_NO_SANDBOX") == "1" {
		opts = append(opts, chromedp.NoSandbox)
	}
	alloc, endAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, end := chromedp.NewContext(alloc, chromedp.WithErrorf(func(format string, args ...any) {
		if v.ctx != nil && v.ctx.Err() == nil {
			t.Logf("chromedp: "+format, args...)
		}
	}))
	t.Cleanup(func() {
		endNow, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		chromedp.Cancel(endNow)
		end()
		endAlloc()
		if err := removeAll(profile); err != nil {
			t.Log(err)
		}
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	v.ctx = ctx
	v.watch(ctx)
	v.tabs = append(v.tabs, &tab{v: v, t: t, ctx: ctx})
	t.Cleanup(func() {
		if t.Failed() {
			v.explain()
		}
		if !v.leaky {
			v.checkLeaks()
		}
	})
	return v
}

// removeAll is os.RemoveAll for a directory into which a dying browser may
// still write.
func removeAll(dir string) (err error) {
	for range 20 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// first is the tab that the browser opened with.
func (v *visit) first() *tab { return v.tabs[0] }

// newTab opens another tab in the same window.
func (v *visit) newTab() *tab {
	v.t.Helper()
	ctx, cancel := chromedp.NewContext(v.ctx)
	v.t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		v.t.Fatalf("opening a tab: %v", err)
	}
	v.watch(ctx)
	tb := &tab{v: v, t: v.t, ctx: ctx}
	v.tabs = append(v.tabs, tb)
	return tb
}

// watch files what Chromium reports about a tab's network, bodies included.
func (v *visit) watch(ctx context.Context) {
	v.t.Helper()
	size := int64(32 << 20)
	bodies := make(chan network.RequestID, 1024)
	urls := map[network.RequestID]string{}
	err := chromedp.Listen(ctx, func(ev any) {
		v.mu.Lock()
		defer v.mu.Unlock()
		switch ev := ev.(type) {
		case *network.EventRequestWillBeSent:
			urls[ev.RequestID] = ev.Request.URL
			v.received = append(v.received,
				item{"Chromium: request URL", ev.Request.URL + ev.Request.URLFragment},
				item{"Chromium: document URL", ev.DocumentURL})
		case *network.EventResponseReceivedExtraInfo:
			for name, value := range ev.Headers {
				v.received = append(v.received, item{
					fmt.Sprintf("Chromium: header %s of the answer from %s", name, urls[ev.RequestID]),
					fmt.Sprint(value),
				})
			}
		case *network.EventLoadingFinished:
			select {
			case bodies <- ev.RequestID:
			default:
			}
		}
	})
	if err != nil {
		v.t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{
		MaxTotalBufferSize:    &size,
		MaxResourceBufferSize: &size,
	}); err != nil {
		v.t.Fatal(err)
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case id := <-bodies:
				// A body may be gone with its page. The fronts have it.
				got, err := chromedp.Call(ctx, network.GetResponseBody, network.GetResponseBodyParams{RequestID: id})
				if err != nil {
					continue
				}
				v.mu.Lock()
				v.received = append(v.received, item{"Chromium: body from " + urls[id], string(got.Body)})
				v.mu.Unlock()
			}
		}
	}()
}

// explain leaves behind what a person needs to understand a failure.
func (v *visit) explain() {
	for i, tb := range v.tabs {
		tb.shotQuietly(fmt.Sprintf("failed-tab%d", i+1))
		where, _ := eval[string](tb, `location.href + "\n" + document.body.innerText.slice(0, 400)`)
		v.t.Logf("tab %d is at %s", i+1, where)
	}
	for _, e := range v.seen.since(v.seenAt) {
		line := e.String()
		if u := e.respHeader.Get("Location"); u != "" {
			line += " -> " + u
		}
		if reason := e.respHeader.Get("BFF-Reason"); reason != "" {
			line += " (" + reason + ")"
		}
		v.t.Log(v.blank(line))
	}
	for i, at := range v.logAt {
		v.t.Logf("gateway %d log:\n%s", i+1, v.gateways[i].log.String()[at:])
	}
	v.t.Logf("issuer log:\n%s", v.issuer.log.String())
}

// blank shortens the query values of an URL for the eye.
func (v *visit) blank(s string) string {
	fields := strings.FieldsFunc(s, func(r rune) bool { return r == '&' })
	for i, f := range fields {
		if len(f) > 120 {
			fields[i] = f[:120] + "…"
		}
	}
	return strings.Join(fields, "&")
}

// eval runs JavaScript in the page and waits for its promise, if it is one.
func eval[T any](tb *tab, js string) (T, error) {
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
}

// run is eval for a script that must work.
func run[T any](tb *tab, js string) T {
	tb.t.Helper()
	got, err := eval[T](tb, js)
	if err != nil {
		tb.t.Fatalf("%s: %v", js, err)
	}
	return got
}

// await polls a JavaScript condition until it holds. A page that goes away in
// the meantime is no error: that is what is often waited for.
func (tb *tab) await(what, js string) {
	tb.t.Helper()
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
		ok, err := eval[bool](tb, "!!("+js+")")
		if ok {
			return
		}
		last = err
	}
	where, _ := eval[string](tb, `location.href`)
	tb.t.Fatalf("%s: still not so after %v, at %s (%v)", what, patience, tb.v.blank(where), last)
}

// goTo types an URL into the address bar, so to speak, and waits for the page
// at the end of all redirects.
func (tb *tab) goTo(to string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(to)); err != nil {
		tb.t.Fatalf("going to %s: %v", tb.v.blank(to), err)
	}
}

// leave starts a navigation and does not wait for where it ends.
func (tb *tab) leave(to string) {
	tb.t.Helper()
	run[bool](tb, fmt.Sprintf("setTimeout(() => location.assign(%s)), true", quote(to)))
}

// click presses the mouse over the element, once it can be seen.
func (tb *tab) click(css string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS(css), chromedp.NodeVisible)); err != nil {
		tb.t.Fatalf("clicking %s: %v", css, err)
	}
}

func (tb *tab) typeInto(css, text string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.SendKeys(chromedp.CSS(css), text, chromedp.NodeVisible)); err != nil {
		tb.t.Fatalf("typing into %s: %v", css, err)
	}
}

// reload is F5.
func (tb *tab) reload() {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Reload()); err != nil {
		tb.t.Fatalf("reload: %v", err)
	}
}

// back goes back in the tab's history to the latest entry of this URL, as the
// long press on the back button does. It does not wait for a load: a page from
// the back/forward cache has none.
func (tb *tab) back(to string) {
	tb.t.Helper()
	history, err := chromedp.Run(tb.ctx, chromedp.NavigationEntries())
	if err != nil {
		tb.t.Fatal(err)
	}
	for i := history.CurrentIndex - 1; i >= 0; i-- {
		if history.Entries[i].URL != to {
			continue
		}
		if _, err := chromedp.Call(tb.ctx, page.NavigateToHistoryEntry,
			page.NavigateToHistoryEntryParams{EntryID: history.Entries[i].ID}); err != nil {
			tb.t.Fatal(err)
		}
		return
	}
	tb.t.Fatalf("no %s in the tab's history", to)
}

// url is where the tab is.
func (tb *tab) url() string {
	tb.t.Helper()
	return run[string](tb, `location.href`)
}

// awaitURL waits until the tab has loaded this very URL.
func (tb *tab) awaitURL(want string) {
	tb.t.Helper()
	tb.await("arriving at "+want, fmt.Sprintf(`location.href === %s && document.readyState === "complete"`, quote(want)))
}

// awaitIssuerForm waits for the issuer's login page.
func (tb *tab) awaitIssuerForm() {
	tb.t.Helper()
	tb.await("the issuer's login page", fmt.Sprintf(
		`location.origin === %s && document.querySelector("#login-form #sign-in")`, quote(tb.v.issuerAt.origin)))
}

// submitLogin fills in the issuer's form and submits it with the mouse.
func (tb *tab) submitLogin(name string) {
	tb.t.Helper()
	tb.awaitIssuerForm()
	tb.typeInto(`input[name=login]`, name)
	tb.click(`#sign-in`)
}

// awaitSPA waits until the frontend knows whether somebody is signed in.
func (tb *tab) awaitSPA(state string) {
	tb.t.Helper()
	tb.await("the frontend saying "+state, fmt.Sprintf(
		`location.origin === %s && document.body?.dataset.state === %s`, quote(tb.v.app.origin), quote(state)))
}

// signIn is the whole way: the frontend's button, the issuer's form, and back.
func (tb *tab) signIn(name string) {
	tb.t.Helper()
	tb.goTo(tb.v.app.origin + "/")
	tb.awaitSPA("signed-out")
	tb.click("#sign-in")
	tb.submitLogin(name)
	tb.awaitSPA("signed-in")
}

// An answer is what a script in the page got from fetch.
type answer struct {
	Status int               `json:"status"`
	Type   string            `json:"type"`
	Header map[string]string `json:"header"`
	Body   string            `json:"body"`
	Error  string            `json:"error"`
}

// fetch calls fetch in the page as a frontend does. init is JavaScript.
func (tb *tab) fetch(path, init string) answer {
	tb.t.Helper()
	return run[answer](tb, fmt.Sprintf(`(async () => {
		try {
			const res = await fetch(%s, %s);
			return {status: res.status, type: res.type, header: Object.fromEntries(res.headers), body: await res.text()};
		} catch (err) {
			return {error: String(err)};
		}
	})()`, quote(path), init))
}

// api is a fetch with the header that the documentation asks frontends for.
func (tb *tab) api(path string) answer {
	tb.t.Helper()
	return tb.fetch(path, `{headers: {"X-CSRF": "1"}}`)
}

// A session is the answer of GET /auth/session, as far as tests look at it.
type session struct {
	Sub     string         `json:"sub"`
	Groups  []string       `json:"groups"`
	Claims  map[string]any `json:"claims"`
	Session struct {
		CreatedAt     time.Time `json:"createdAt"`
		IdleExpiresAt time.Time `json:"idleExpiresAt"`
		ExpiresAt     time.Time `json:"expiresAt"`
	} `json:"session"`
	AccessToken struct {
		ExpiresAt time.Time `json:"expiresAt"`
		Renewable bool      `json:"renewable"`
	} `json:"accessToken"`
	CSRFToken string `json:"csrfToken"`
}

// session asks /auth/session and expects somebody to be signed in.
func (tb *tab) session() session {
	tb.t.Helper()
	got := tb.api("/auth/session")
	if got.Status != 200 {
		tb.t.Fatalf("GET /auth/session = %d %s, want 200", got.Status, got.Body)
	}
	var s session
	if err := json.Unmarshal([]byte(got.Body), &s); err != nil {
		tb.t.Fatalf("GET /auth/session: %v in %s", err, got.Body)
	}
	return s
}

// cookies lists what Chromium's own cookie store holds for a host.
func (v *visit) cookies(origin string) []*network.Cookie {
	v.t.Helper()
	u, err := url.Parse(origin)
	if err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	all, err := chromedp.CallBrowser(ctx, storage.GetCookies, storage.GetCookiesParams{})
	if err != nil {
		v.t.Fatal(err)
	}
	return slices.DeleteFunc(all.Cookies, func(c *network.Cookie) bool {
		return strings.TrimPrefix(c.Domain, ".") != u.Hostname() && !strings.HasSuffix(u.Hostname(), c.Domain)
	})
}

// forget removes a host's cookies from the browser's store.
func (v *visit) forget(origin string) {
	v.t.Helper()
	for _, c := range v.cookies(origin) {
		if _, err := chromedp.Call(v.ctx, network.DeleteCookies, network.DeleteCookiesParams{
			Name: c.Name, Domain: c.Domain, Path: c.Path,
		}); err != nil {
			v.t.Fatal(err)
		}
	}
}

// look notes what a script on the page could read, and a person could see.
func (tb *tab) look(when string) {
	const js = `(async () => {
		const answer = (r) => new Promise((ok, no) => { r.onsuccess = () => ok(r.result); r.onerror = () => no(r.error) });
		const databases = [], kept = [];
		for (const { name } of await indexedDB.databases()) {
			const db = await answer(indexedDB.open(name));
			for (const store of db.objectStoreNames) {
				const all = db.transaction(store).objectStore(store);
				databases.push([name, store, ...await Promise.all([answer(all.getAllKeys()), answer(all.getAll())])]);
			}
			db.close();
		}
		for (const name of self.caches ? await caches.keys() : []) { // in a secure context only
			const cache = await caches.open(name);
			for (const req of await cache.keys()) {
				for (const res of await cache.matchAll(req, { ignoreVary: true })) {
					kept.push([name, req.url, [...req.headers], [...res.headers], await res.text()]);
				}
			}
		}
		return JSON.stringify({
			url: location.href,
			referrer: document.referrer,
			cookie: document.cookie,
			local: Object.entries(localStorage),
			session: Object.entries(sessionStorage),
			databases: databases,
			caches: kept,
			name: window.name,
			state: history.state,
			entries: performance.getEntries().map((e) => e.name),
			html: document.documentElement.outerHTML,
		}, (_, x) => x instanceof ArrayBuffer || ArrayBuffer.isView(x) ? new TextDecoder().decode(x) : typeof x === "bigint" ? String(x) : x);
	})()`
	text, err := eval[string](tb, js)
	if err != nil {
		return // an opaque page (about:blank, an error page) has no storage
	}
	var read map[string]any
	if err := json.Unmarshal([]byte(text), &read); err != nil {
		tb.t.Errorf("reading the page: %v", err)
		return
	}
	at, _ := read["url"].(string)
	tb.v.mu.Lock()
	defer tb.v.mu.Unlock()
	for name, value := range read {
		// Not as JSON: its escapes would hide what is looked for.
		tb.v.surfaces = append(tb.v.surfaces, item{
			fmt.Sprintf("page %s, %s: %s", tb.v.blank(at), when, name), fmt.Sprint(value)})
	}
}

// shot takes a picture for people, and looks at the page while at it.
func (tb *tab) shot(name string) {
	tb.t.Helper()
	tb.look(name)
	if err := tb.shotQuietly(name); err != nil {
		tb.t.Logf("screenshot %s: %v", name, err)
	}
}

func (tb *tab) shotQuietly(name string) error {
	ctx, cancel := context.WithTimeout(tb.ctx, 5*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		return err
	}
	tb.v.shots++
	file := fmt.Sprintf("%s-%02d-%s.png", strings.ReplaceAll(tb.t.Name(), "/", "-"), tb.v.shots, name)
	return errors.Join(
		os.MkdirAll("screenshots", 0o755),
		os.WriteFile(filepath.Join("screenshots", file), png, 0o644),
	)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string
	}
	return string(b)
}
