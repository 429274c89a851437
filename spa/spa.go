// Package spa serves a single-page application from a Go server: its files, its
// index for every path that a person opens, and the headers that keep the page
// to itself.
//
//	//go:embed all:dist
//	var dist embed.FS
//
//	func main() {
//		keys, err := bff.ParseKeys(os.Getenv("BFF_KEYS"))
//		if err != nil {
//			log.Fatal(err)
//		}
//		auth, err := bff.New(context.Background(), bff.Config{
//			Issuer:      "https://login.example.com",
//			ClientID:    "shop",
//			RedirectURL: "https://shop.example.com/auth/callback",
//			Keys:        keys,
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		files, err := fs.Sub(dist, "dist")
//		if err != nil {
//			log.Fatal(err)
//		}
//		opts := spa.Options{EndSession: "https://login.example.com"}
//		site, err := spa.Handler(files, opts)
//		if os.Getenv("DEV") != "" {
//			site, err = spa.Dev("http://localhost:5173", opts) // npm run dev
//		}
//		if err != nil {
//			log.Fatal(err)
//		}
//		mux := http.NewServeMux()
//		mux.Handle("/api/", auth.Proxy(bff.Upstream{URL: "https://api.example.com", StripPrefix: "/api"}))
//		mux.Handle("/", site)
//		log.Fatal(http.ListenAndServe("127.0.0.1:8080", auth.Routes(mux)))
//	}
//
// It needs nothing of package bff and works without it.
//
// # Which path gets what
//
// A path that names a file gets the file. Any other path gets the index if a
// person opens it, as Sec-Fetch-Mode and Sec-Fetch-Dest tell, or Accept where a
// browser sends neither; all else is 404. So a mistyped path of a script, an
// image or a fetch is never a page with status 200. No directory is listed, and
// no path with a dot segment or a name that begins with a dot is answered,
// except below /.well-known/ (RFC 8615).
//
// # Caching
//
// Documents, the index among them, are no-store. A file whose name changes with
// its content ([Hashed], Options.Immutable) may be kept for a year. All others
// are asked for again each time, which costs a 304: their ETag is a digest of
// their content, so that replicas agree on it. If app.js.br or app.js.gz lies
// beside app.js, it is sent to who accepts it.
//
// Behind Protect of package bff, whose answers are no-store, files may be kept
// by the browser and by no cache on the way.
//
// # Headers
//
// Every answer has a Content-Security-Policy that lets the page load, call and
// submit to its own origin only, run no inline script and be framed by nobody
// (OWASP ASVS 5.0.0, sections 3.4.3 and 3.4.6). Options.Sources admits more, by
// directive; inline scripts and styles can be admitted by hash or by nonce. What
// the policy would block in the index itself, [Handler] reports at start. The
// others are X-Content-Type-Options, Referrer-Policy,
// Cross-Origin-Opener-Policy, Cross-Origin-Resource-Policy and
// Permissions-Policy. [HSTS] is for the whole server.
//
// # Development
//
// [Dev] stands in for Handler and forwards to Vite or another dev server, its
// WebSocket included, so that the browser sees one origin as in production.
package spa

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options say what differs from the defaults. The zero value is strict and
// serves what a bundler makes of an application without inline scripts.
type Options struct {
	// Index is the file that navigations get. Empty means index.html.
	Index string

	// EndSession is the URL of the issuer's end-session endpoint, or just its
	// origin. Signing out is a form whose answer leads there, and browsers
	// apply form-action to that redirect: without this they stop at it, and the
	// issuer's session lives on. Empty means none. Further origins on the way,
	// such as those of a federation, belong in Sources["form-action"].
	EndSession string

	// Sources are what the Content-Security-Policy admits besides this origin:
	// expressions by directive, such as {"img-src": {"https://img.example.com"}}.
	// What would let foreign scripts in (a whole scheme, 'unsafe-inline' for
	// scripts, and their like) is refused. img-src has data: from the start,
	// since bundlers inline small images.
	Sources map[string][]string

	// InsecureSources are added as Sources are, but may undo what the policy is
	// for.
	InsecureSources map[string][]string

	// Nonce is a placeholder in documents, such as __CSP_NONCE__. Each response
	// has another random value in its place, which the policy admits for inline
	// scripts and styles. Vite puts the placeholder where it belongs if told so
	// by html.cspNonce. Empty means that there is none.
	Nonce string

	// HashInline admits the inline scripts and styles that documents have, by
	// their SHA-256.
	HashInline bool

	// Immutable reports whether a file's name changes with its content, so that
	// it may be kept for a year. Nil means [Hashed].
	Immutable func(name string) bool

	// ReferrerPolicy is what other pages learn of the address they were opened
	// from. Empty means same-origin: other sites learn nothing. The values that
	// would give paths and queries to other sites are refused.
	ReferrerPolicy string

	// OpenerPolicy is the Cross-Origin-Opener-Policy. Empty means same-origin;
	// with same-origin-allow-popups, popups can answer.
	OpenerPolicy string

	// ResourcePolicy is the Cross-Origin-Resource-Policy. Empty means
	// same-origin; with cross-origin, other sites and mail can show the images.
	ResourcePolicy string

	// Permissions are the browser's features that the application uses: of
	// camera, geolocation, microphone and the others that the Permissions-Policy
	// denies.
	Permissions []string

	// Logger receives what could not be read. Nil means slog.Default().
	Logger *slog.Logger
}

// A handler serves the files of an application.
type handler struct {
	fsys      fs.FS
	index     string
	immutable func(string) bool
	nonce     string
	hashes    bool
	headers   headers
	log       *slog.Logger
	etags     memo[string]
	documents memo[*document]
}

// Handler serves the application in fsys, which has the index at its root. It
// answers GET and HEAD.
//
// It fails, with every mistake at once, if an option can't be used, if there is
// no index, or if the policy blocks something that the index contains. fsys is
// read anew when a file's size or modification time has changed. A file that
// isn't an [io.Seeker] is read into memory, up to 64 MiB.
//
// For a directory use [os.OpenRoot] and its FS, which no symbolic link leads
// out of.
func Handler(fsys fs.FS, opts Options) (http.Handler, error) {
	h := &handler{fsys: fsys, index: opts.Index, immutable: opts.Immutable, nonce: opts.Nonce, hashes: opts.HashInline, log: opts.Logger}
	h.etags.max, h.documents.max = 4096, 32
	if h.index == "" {
		h.index = "index.html"
	}
	if h.immutable == nil {
		h.immutable = Hashed
	}
	if h.log == nil {
		h.log = slog.Default()
	}
	var errs []error
	var err error
	if h.headers, err = newHeaders(opts); err != nil {
		errs = append(errs, err)
	}
	if h.nonce != "" && (len(h.nonce) < 8 || !printable(h.nonce) || strings.ContainsAny(h.nonce, ` "'<>`)) {
		errs = append(errs, errors.New("Options.Nonce must be at least 8 printable characters, without blanks, quotes and angle brackets"))
	} else if err := h.checkIndex(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, prefixed(errs)
	}
	return h, nil
}

// checkIndex reports why the index can't be served, or would not work.
func (h *handler) checkIndex() error {
	if typ := typeOf(h.index); !fs.ValidPath(h.index) || !isDocument(typ) {
		return fmt.Errorf("Options.Index: %q is not the name of an HTML file", h.index)
	}
	info, err := fs.Stat(h.fsys, h.index)
	if err != nil {
		return fmt.Errorf("no index: %w", err)
	}
	doc, err := h.document(h.index, info)
	if err != nil {
		return err
	}
	var errs []error
	for _, problem := range doc.problems(h) {
		errs = append(errs, fmt.Errorf("%s: %s", h.index, problem))
	}
	return errors.Join(errs...)
}

// prefixed joins errs, each line with the package's name.
func prefixed(errs []error) error {
	text := errors.Join(errs...).Error()
	return errors.New("spa: " + strings.ReplaceAll(text, "\n", "\nspa: "))
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		h.headers.refuse(w, http.StatusMethodNotAllowed)
		return
	}
	name, route := fileName(r.URL)
	if name != "" {
		if info, err := fs.Stat(h.fsys, name); err == nil && info.Mode().IsRegular() {
			h.serve(w, r, name, info)
			return
		}
		// Any error means that there is no such file: which of them a path
		// provokes is the client's choice.
	}
	if isRoot(r.URL) || route && navigates(r) {
		info, err := fs.Stat(h.fsys, h.index)
		if err != nil {
			h.fail(w, r, h.index, err)
			return
		}
		h.serve(w, r, h.index, info)
		return
	}
	h.headers.refuse(w, http.StatusNotFound)
}

// serve answers with a file that exists.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, name string, info fs.FileInfo) {
	var err error
	if isDocument(typeOf(name)) {
		err = h.serveDocument(w, r, name, info)
	} else {
		err = h.serveFile(w, r, name, info)
	}
	if err != nil {
		h.fail(w, r, name, err)
	}
}

// fail answers for a file that is there and can't be read.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, name string, err error) {
	h.log.LogAttrs(r.Context(), slog.LevelError, "a file of the application can't be served",
		slog.String("file", name), slog.String("err", err.Error()))
	w.Header().Set("Retry-After", "5")
	h.headers.refuse(w, http.StatusServiceUnavailable)
}

// isRoot reports whether u is the application's own address.
func isRoot(u *url.URL) bool { return u.Path == "" || u.Path == "/" }

// fileName returns the name of the file that u asks for, or "" if no file can
// be meant. It reports whether the path may be one of the application's own
// routes, which the index then answers.
func fileName(u *url.URL) (name string, route bool) {
	segments := strings.FieldsFunc(u.Path, func(r rune) bool { return r == '/' || r == '\\' })
	wellKnown := len(segments) > 0 && segments[0] == ".well-known"
	for i, s := range segments {
		if s[0] == '.' && !(i == 0 && wellKnown) { // dot segments and dotfiles
			return "", false
		}
	}
	name = strings.TrimPrefix(u.Path, "/")
	if !fs.ValidPath(name) || name == "." {
		return "", !wellKnown
	}
	// An escaped separator is a character of a route, never one between names.
	// Windows gives a meaning to backslash and colon.
	escaped := strings.ToLower(u.EscapedPath())
	if strings.Contains(escaped, "%2f") || strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r == 0x7f || r == '\\' || r == ':'
	}) {
		return "", !wellKnown
	}
	return name, !wellKnown
}

// navigates reports whether a person opens a page with r, as far as its browser
// says (Fetch Metadata; before that, Accept).
func navigates(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		if mode != "navigate" {
			return false
		}
		switch r.Header.Get("Sec-Fetch-Dest") {
		case "", "document", "iframe", "frame", "empty": // empty: through a service worker
			return true
		}
		return false // object, embed
	}
	if r.Header.Get("X-Requested-With") != "" || r.Header.Get("X-Csrf") != "" {
		return false
	}
	return strings.Contains(strings.ToLower(r.Header.Get("Accept")), "text/html")
}

// HSTS adds Strict-Transport-Security to every answer of next, for maxAge and,
// if so chosen, for all subdomains (RFC 6797, section 6.1). It belongs outermost,
// around the handlers of package bff too. OWASP ASVS 5.0.0, section 3.4.1, asks
// for a year at least; begin with minutes, since browsers can't be told to
// forget it except over working TLS. Zero tells them that. Over plain http
// browsers ignore it.
func HSTS(next http.Handler, maxAge time.Duration, subdomains bool) http.Handler {
	value := "max-age=" + strconv.FormatInt(int64(max(maxAge, 0)/time.Second), 10)
	if subdomains {
		value += "; includeSubDomains"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", value)
		next.ServeHTTP(w, r)
	})
}

// headers are what every answer has.
type headers struct {
	policy      policy
	static      string // the policy without nonce and hashes
	referrer    string
	opener      string
	resource    string
	permissions string
}

// newHeaders checks the options that become headers.
func newHeaders(opts Options) (headers, error) {
	var h headers
	var errs []error
	var err error
	if h.policy, err = newPolicy(opts); err != nil {
		errs = append(errs, err)
	}
	h.static = h.policy.with("", "")
	choose := func(field, value string, allowed ...string) string {
		if value == "" {
			return allowed[0]
		}
		if !slices.Contains(allowed, value) {
			errs = append(errs, fmt.Errorf("Options.%s: %q is not %s", field, value, strings.Join(allowed, ", ")))
		}
		return value
	}
	h.referrer = choose("ReferrerPolicy", opts.ReferrerPolicy, "same-origin", "no-referrer", "origin", "origin-when-cross-origin", "strict-origin", "strict-origin-when-cross-origin")
	h.opener = choose("OpenerPolicy", opts.OpenerPolicy, "same-origin", "same-origin-allow-popups", "noopener-allow-popups")
	h.resource = choose("ResourcePolicy", opts.ResourcePolicy, "same-origin", "same-site", "cross-origin")
	if h.permissions, err = permissionsPolicy(opts.Permissions); err != nil {
		errs = append(errs, err)
	}
	return h, errors.Join(errs...)
}

// set sets the headers, with the given policy.
func (h *headers) set(header http.Header, policy string) {
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", h.referrer)
	header.Set("Cross-Origin-Opener-Policy", h.opener)
	header.Set("Cross-Origin-Resource-Policy", h.resource)
	header.Set("Permissions-Policy", h.permissions)
}

// refuse answers with a status and a line of text that nothing can make more of.
func (h *headers) refuse(w http.ResponseWriter, status int) {
	h.set(w.Header(), refusalPolicy)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%d %s\n", status, strings.ToLower(http.StatusText(status)))
}

const refusalPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
