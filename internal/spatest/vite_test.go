package spatest

import (
	"bytes"
	"compress/gzip"
	"context"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/spa"
)

// frontend returns a copy of the frontend's sources, to be edited.
func frontend(t *testing.T) string {
	t.Helper()
	from, err := filepath.Abs("frontend")
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(from, "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "vite")); err != nil {
		t.Fatalf("Vite is not installed; run \"make setup\": %v", err)
	}
	dir := t.TempDir()
	for _, name := range []string{"src", "public"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(from, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"index.html", "package.json", "vite.config.js"} {
		write(t, filepath.Join(dir, name), read(t, filepath.Join(from, name)))
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// edit replaces a text that the file has.
func edit(t *testing.T, name, from, to string) {
	t.Helper()
	text := read(t, name)
	if !strings.Contains(text, from) {
		t.Fatalf("%s does not have %q", name, from)
	}
	write(t, name, strings.Replace(text, from, to, 1))
}

// vite is the command in dir. Its packages' tools are not on the PATH.
func vite(ctx context.Context, t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	node := "node"
	// The one that "make setup" brings where the system's is too old.
	own, err := filepath.Glob(filepath.Join("..", "e2e", ".node", "node_modules", "node-linux-*", "bin", "node"))
	if err != nil {
		t.Fatal(err)
	}
	if len(own) > 0 {
		if node, err = filepath.Abs(own[0]); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(ctx, node, append([]string{filepath.Join("node_modules", "vite", "bin", "vite.js")}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "CI=")
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// build runs vite build and opens what it made.
func build(t *testing.T, dir string, env ...string) *os.Root {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := vite(ctx, t, dir, "build")
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("vite build: %v\n%s", err, out)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "dist"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// startVite runs the dev server until the test ends.
func startVite(t *testing.T, dir, addr string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := vite(ctx, t, dir, "--host", host, "--port", port, "--strictPort")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	// It ends with its stdin, and so can't outlive this process.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		stdin.Close()
		cancel()
		<-done // WaitDelay kills it
		if t.Failed() {
			t.Logf("vite:\n%s", out)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-done:
			t.Fatalf("vite ended:\n%s", out)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("vite does not listen at %s: %v\n%s", addr, err, out)
		}
	}
}

// An output is what a process wrote so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// freeAddr finds a loopback address nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

var quiet = slog.New(slog.DiscardHandler)

// An app is a whole server: the routes of package bff around a frontend. Its
// issuer has another origin, and another site: localhost.
type app struct {
	origin string
	issuer *bfftest.Issuer
}

// serve runs an app whose frontend is made for its issuer's URL.
func serve(t *testing.T, frontend func(issuer string) (http.Handler, error)) *app {
	t.Helper()
	a := &app{issuer: bfftest.NewIssuer(bfftest.Options{})}
	stop, err := a.issuer.Start("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.origin = "http://" + ln.Addr().String()
	auth, err := bff.New(t.Context(), bff.Config{
		Issuer:      a.issuer.URL(),
		ClientID:    a.issuer.ClientID(),
		RedirectURL: a.origin + "/auth/callback",
		HTTPClient:  a.issuer.Client(),
		Logger:      quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	site, err := frontend(a.issuer.URL())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", site)
	srv := &http.Server{Handler: auth.Routes(mux), ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(ln)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		srv.Close() // the WebSocket would keep Shutdown waiting
		if err := auth.Close(ctx); err != nil {
			t.Error(err)
		}
		if err := stop(ctx); err != nil {
			t.Log(err)
		}
	})
	return a
}

// checkWorks waits until every part of the frontend has done its work.
func checkWorks(tb *tab, message string) {
	tb.t.Helper()
	tb.awaitText("message", message)
	tb.awaitText("late", "late")
	tb.awaitText("worker", "worked 42")
	tb.await("the style sheet", `getComputedStyle(document.getElementById("message")).color === "rgb(1, 2, 3)"`)
	tb.await("the late style sheet", `getComputedStyle(document.getElementById("late")).color === "rgb(4, 5, 6)"`)
	tb.await("the image", `document.getElementById("dot").naturalWidth === 8`)
	tb.await("the session's state", `document.getElementById("session").textContent !== ""`)
}

// An edit to a source file reaches the page by hot reloading, through our
// origin, without a new page; and the dev server sees no cookie.
func TestHotReload(t *testing.T) {
	dir := frontend(t)
	addr := freeAddr(t)
	a := serve(t, func(issuer string) (http.Handler, error) {
		return spa.Dev("http://"+addr, spa.Options{EndSession: issuer, Logger: quiet})
	})
	tb := newTab(t)

	// Before it is started, the page says so, and goes on by itself.
	tb.goTo(a.origin + "/orders/7")
	tb.await("the page that explains", `document.title === "The dev server does not answer"`)
	startVite(t, dir, addr)
	tb.await("the page by itself", `document.title === "Shop"`)
	checkWorks(tb, "hello")
	tb.awaitText("session", "signed out")

	// Signed in, as the cookies that the dev server must not see come then.
	tb.click("#sign-in")
	tb.click("button[value=alice]")
	tb.awaitText("session", "signed in")
	checkWorks(tb, "hello")
	tb.takeComplaints() // of the dev server that did not answer
	sockets := tb.webSockets()

	run[bool](tb, `(window.same = true)`)
	edit(t, filepath.Join(dir, "src", "message.ts"), "'hello'", "'edited'")
	tb.awaitText("message", "edited")
	edit(t, filepath.Join(dir, "src", "style.css"), "rgb(1, 2, 3)", "rgb(7, 8, 9)")
	tb.await("the edited style", `getComputedStyle(document.getElementById("message")).color === "rgb(7, 8, 9)"`)
	if same, err := eval[bool](tb, `window.same === true`); !same || err != nil {
		t.Errorf("the page was loaded anew (%v)", err)
	}
	tb.checkNoComplaints("after the edits")

	ours := "ws" + strings.TrimPrefix(a.origin, "http") + "/"
	for _, s := range sockets {
		if !strings.HasPrefix(s, ours) {
			t.Errorf("a WebSocket to %s, want all to %s", s, ours)
		}
	}
	if got := run[string](tb, `fetch("/__secrets").then((r) => r.text())`); got != "[]" {
		t.Errorf("the dev server saw cookies or credentials with %s", got)
	}
	for path, want := range map[string]int{"/auth/sesion": 404, "/src/typo.ts": 404, "/src/main.ts": 200} {
		if got := run[int](tb, `fetch("`+path+`").then((r) => r.status)`); got != want {
			t.Errorf("fetch of %s = %d, want %d", path, got, want)
		}
	}
}

// What Vite builds runs under the strict policy without a word in the console,
// in each of the three ways with inline scripts, and the policy is in force.
func TestBuiltApp(t *testing.T) {
	const inline = `<script>document.documentElement.dataset.early = "yes";</script>
<style>h1 { color: rgb(10, 11, 12); }</style>`
	for _, c := range []struct {
		name   string
		inline bool
		env    string
		opts   spa.Options
	}{
		{name: "strict"},
		{name: "hash", inline: true, opts: spa.Options{HashInline: true}},
		{name: "nonce", inline: true, env: "CSP_NONCE=__CSP_NONCE__", opts: spa.Options{Nonce: "__CSP_NONCE__"}},
		{name: "nonce-strict-dynamic", inline: true, env: "CSP_NONCE=__CSP_NONCE__", opts: spa.Options{
			Nonce:   "__CSP_NONCE__",
			Sources: map[string][]string{"script-src": {"'strict-dynamic'"}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := frontend(t)
			if c.inline {
				edit(t, filepath.Join(dir, "index.html"), "<!-- inline -->", inline)
			}
			root := build(t, dir, c.env)
			zip(t, filepath.Join(dir, "dist"))
			if c.inline {
				if _, err := spa.Handler(root.FS(), spa.Options{}); err == nil || !strings.Contains(err.Error(), "an inline script") {
					t.Errorf("without a choice Handler says %v, want that there is an inline script", err)
				}
			}
			c.opts.Logger = quiet
			a := serve(t, func(string) (http.Handler, error) { return spa.Handler(root.FS(), c.opts) })
			tb := newTab(t)
			for range 2 { // with an empty cache, and with a full one
				tb.goTo(a.origin + "/orders/7?x=y")
				checkWorks(tb, "hello")
				tb.awaitText("session", "signed out")
				if c.inline {
					if got := run[string](tb, `document.documentElement.dataset.early + getComputedStyle(document.querySelector("h1")).color`); got != "yesrgb(10, 11, 12)" {
						t.Errorf("inline script and style did %q", got)
					}
				}
			}
			tb.checkNoComplaints("the built frontend")

			assets := tb.cached(a.origin + "/assets/")
			if len(assets) < 4 {
				t.Errorf("only these assets were loaded: %v", assets)
			}
			for u, got := range assets {
				if got != "max-age=31536000, immutable" {
					t.Errorf("%s has Cache-Control %q", u, got)
				}
			}
			if got := run[string](tb, `fetch(document.querySelector("script[type=module]").src, {cache: "no-store"}).then(
				(r) => [r.headers.get("content-encoding"), r.headers.get("content-type"), r.headers.get("vary")].join("|"))`); got != "gzip|text/javascript; charset=utf-8|Accept-Encoding" {
				t.Errorf("the script comes as %q", got)
			}
			for path, want := range map[string]int{"/auth/sesion": 404, "/assets/typo.js": 404, "/icon.svg": 200} {
				if got := run[int](tb, `fetch("`+path+`").then((r) => r.status)`); got != want {
					t.Errorf("fetch of %s = %d, want %d", path, got, want)
				}
			}
			tb.takeComplaints() // of those two

			// What an attacker would try is blocked.
			for what, try := range map[string]string{ // by the directive that does it
				"script-src-elem": `const s = document.createElement("script"); s.textContent = "window.evil = 1"; document.body.append(s)`,
				"script-src-attr": `document.body.insertAdjacentHTML("beforeend", "<img src=/icon.svg?x onload='window.evil = 1'>")`,
				"style-src-elem":  `const s = document.createElement("style"); s.textContent = "h1 { color: red }"; document.head.append(s)`,
				"connect-src":     `fetch("http://localhost:9/").catch(() => {})`,
				"base-uri":        `const b = document.createElement("base"); b.href = "http://localhost:9/"; document.head.append(b)`,
				"object-src":      `const o = document.createElement("object"); o.data = "/icon.svg"; document.body.append(o)`,
				"form-action":     `const f = document.createElement("form"); f.action = "http://localhost:9/"; document.body.append(f); f.submit()`,
			} {
				if what == "script-src-elem" && strings.HasSuffix(c.name, "strict-dynamic") {
					continue // that is what it admits: scripts that a script adds
				}
				run[bool](tb, `(() => { `+try+`; return true })()`)
				tb.await("a violation of "+what, `violations.some((v) => v.startsWith("`+what+` "))`)
			}
			if evil := run[bool](tb, `"evil" in window`); evil {
				t.Error("a script ran that the policy should block")
			}
		})
	}
}

// zip puts compressed siblings beside the files, as build plug-ins do.
func zip(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".js" && filepath.Ext(name) != ".css" {
			return err
		}
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write([]byte(read(t, name))); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		return os.WriteFile(name+".gz", b.Bytes(), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The form that signs out passes form-action on its way to the issuer, if
// EndSession names that. Without, the browser stops at the redirect: the issuer
// still knows the person (F8).
func TestSignOut(t *testing.T) {
	dir := frontend(t)
	root := build(t, dir)
	for _, named := range []bool{true, false} {
		name := map[bool]string{true: "with-end-session", false: "without"}[named]
		t.Run(name, func(t *testing.T) {
			a := serve(t, func(issuer string) (http.Handler, error) {
				opts := spa.Options{Logger: quiet}
				if named {
					opts.EndSession = issuer
				}
				return spa.Handler(root.FS(), opts)
			})
			tb := newTab(t)
			tb.goTo(a.origin + "/account")
			tb.awaitText("session", "signed out")
			tb.click("#sign-in")
			tb.click("button[value=alice]")
			tb.awaitText("session", "signed in")
			if n := a.issuer.Sessions(); n != 1 {
				t.Fatalf("the issuer has %d sessions, want 1", n)
			}
			tb.checkNoComplaints("signing in")
			tb.click("#sign-out")
			if named {
				tb.await("the way back from the issuer", `location.pathname === "/"`)
				tb.awaitText("session", "signed out")
				tb.checkNoComplaints("signing out")
				if n := a.issuer.Sessions(); n != 0 {
					t.Errorf("the issuer has %d sessions after the sign-out, want 0", n)
				}
				return
			}
			tb.await("the browser's refusal", `violations.some((v) => v.startsWith("form-action "))`)
			if n := a.issuer.Sessions(); n != 1 {
				t.Errorf("the issuer has %d sessions; the browser followed after all", n)
			}
			if got := run[int](tb, `fetch("/auth/session").then((r) => r.status)`); got != 401 {
				t.Errorf("GET /auth/session = %d, want 401: the session here went first", got)
			}
		})
	}
}
