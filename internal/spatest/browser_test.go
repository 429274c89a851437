package spatest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long a condition may take to come true.
const patience = 30 * time.Second

// A tab is Chromium with an empty profile and one page. It keeps what the
// browser complained of, as its console shows it.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
	sockets    []*socket
	received   map[string]string // Cache-Control of answers from the server, by URL
}

// A socket is a WebSocket that the page opened.
type socket struct {
	id    network.RequestID
	url   string
	heard bool // from the other side
}

func newTab(t *testing.T) *tab {
	t.Helper()
	profile, err := os.MkdirTemp("", "bff-spatest-profile-")
	if err != nil {
		t.Fatal(err)
	}
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(findChromium(t)),
		chromedp.UserDataDir(profile),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true),
	)
	// Root can't have Chromium's sandbox, and some containers don't offer it.
	if os.Getuid() == 0 || os.Getenv("E2E_NO_SANDBOX") == "1" {
		opts = append(opts, chromedp.NoSandbox)
	}
	alloc, endAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	tb := &tab{t: t, received: map[string]string{}}
	ctx, end := chromedp.NewContext(alloc, chromedp.WithErrorf(func(format string, args ...any) {
		if tb.ctx != nil && tb.ctx.Err() == nil {
			t.Logf("chromedp: "+format, args...)
		}
	}))
	t.Cleanup(func() {
		endNow, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		chromedp.Cancel(endNow)
		end()
		endAlloc()
		for range 20 { // a dying browser may still write
			if err = os.RemoveAll(profile); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Log(err)
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	tb.ctx = ctx
	if err := chromedp.Listen(ctx, tb.note); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, struct{}{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, runtime.Enable, struct{}{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	// Violations of the policy that the console leaves out.
	if _, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `globalThis.violations = [];
			addEventListener("securitypolicyviolation", (e) => violations.push(e.effectiveDirective + " " + e.blockedURI));`,
	}); err != nil {
		t.Fatal(err)
	}
	return tb
}

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

// note files what Chromium reports.
func (tb *tab) note(ev any) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	complain := func(format string, args ...any) {
		tb.complaints = append(tb.complaints, fmt.Sprintf(format, args...))
	}
	switch ev := ev.(type) {
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.EntryLevelError || ev.Entry.Level == log.EntryLevelWarning {
			complain("%s: %s (%s)", ev.Entry.Level, ev.Entry.Text, ev.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		if ev.Type == runtime.ConsoleAPICalledTypeError || ev.Type == runtime.ConsoleAPICalledTypeWarning {
			text, _ := json.Marshal(ev.Args)
			complain("console.%s: %s", ev.Type, text)
		}
	case *runtime.EventExceptionThrown:
		complain("exception: %s", ev.ExceptionDetails.Text)
	case *network.EventWebSocketCreated:
		tb.sockets = append(tb.sockets, &socket{id: ev.RequestID, url: ev.URL})
	case *network.EventWebSocketFrameReceived:
		for _, s := range tb.sockets {
			s.heard = s.heard || s.id == ev.RequestID
		}
	case *network.EventResponseReceived:
		cache := ""
		for name, value := range ev.Response.Headers {
			if strings.EqualFold(name, "Cache-Control") {
				cache = fmt.Sprint(value)
			}
		}
		tb.received[ev.Response.URL] = cache
	}
}

// takeComplaints returns what the console holds since it was last asked, the
// page's own list of violations included.
func (tb *tab) takeComplaints() []string {
	tb.t.Helper()
	violations := run[[]string](tb, `violations.splice(0)`)
	tb.mu.Lock()
	defer tb.mu.Unlock()
	list := tb.complaints
	tb.complaints = nil
	for _, v := range violations {
		list = append(list, "violation: "+v)
	}
	return list
}

func (tb *tab) checkNoComplaints(when string) {
	tb.t.Helper()
	for _, c := range tb.takeComplaints() {
		tb.t.Errorf("%s: %s", when, c)
	}
}

// cached returns the Cache-Control of what was received from below a URL.
func (tb *tab) cached(prefix string) map[string]string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	got := maps.Clone(tb.received)
	maps.DeleteFunc(got, func(u, _ string) bool { return !strings.HasPrefix(u, prefix) })
	return got
}

// webSockets returns the URLs of all WebSockets that were opened, once the last
// of them is in use.
func (tb *tab) webSockets() []string {
	tb.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
		tb.mu.Lock()
		var urls []string
		for _, s := range tb.sockets {
			urls = append(urls, s.url)
		}
		live := len(urls) > 0 && tb.sockets[len(urls)-1].heard
		tb.mu.Unlock()
		if live {
			return urls
		}
	}
	tb.t.Fatalf("no WebSocket heard anything within %v", patience)
	return nil
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
	page, _ := eval[string](tb, `location.href + "\n" + document.documentElement.outerHTML.slice(0, 2000)`)
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.t.Fatalf("%s: still not so after %v (%v), at %s\nconsole: %q", what, patience, last, page, tb.complaints)
}

// awaitText waits for an element's text.
func (tb *tab) awaitText(id, text string) {
	tb.t.Helper()
	tb.await(id+" saying "+text, fmt.Sprintf("document.getElementById(%q)?.textContent === %q", id, text))
}

func (tb *tab) goTo(url string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		tb.t.Fatalf("going to %s: %v", url, err)
	}
}

func (tb *tab) click(css string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS(css), chromedp.NodeVisible)); err != nil {
		tb.t.Fatalf("clicking %s: %v", css, err)
	}
}
