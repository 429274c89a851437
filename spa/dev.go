package spa

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Dev stands in for [Handler] while the frontend is being written: it forwards
// to a dev server such as Vite's, http://localhost:5173, its WebSocket included.
// It answers as Handler does: a path that no person opens and that is no file
// is 404, though dev servers send their index.
//
// The policy is that of opts, so that what it will block in production is seen,
// loosened by what dev servers need: inline scripts and styles, eval, and
// workers from blobs. Index, Nonce, HashInline and Immutable are ignored.
//
// Dev servers give away source code, and files beside it. Therefore both must
// be on this machine: the dev server, and whoever asks. A request from another
// address, with a Host that isn't loopback, by a proxy that names a client
// elsewhere, or from a page of another origin is refused. Neither cookies nor
// credentials reach the dev server, and it can set none.
func Dev(server string, opts Options) (http.Handler, error) {
	var errs []error
	target, err := url.Parse(server)
	if err != nil || target.Scheme != "http" || !isLoopback(target.Hostname()) || target.User != nil ||
		target.RawQuery != "" || target.Fragment != "" || strings.Trim(target.Path, "/") != "" {
		errs = append(errs, fmt.Errorf("Dev: %q is not the address of a server on this machine, such as http://localhost:5173", server))
	}
	d := &devProxy{log: opts.Logger}
	if d.log == nil {
		d.log = slog.Default()
	}
	if d.headers, err = newHeaders(loosened(opts)); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, prefixed(errs)
	}
	d.target = &url.URL{Scheme: "http", Host: target.Host}
	d.proxy = &httputil.ReverseProxy{
		Rewrite:        d.rewrite,
		ModifyResponse: d.clean,
		ErrorHandler:   d.unreachable,
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: 5 * time.Second, ControlContext: onlyLoopback}).DialContext,
			// The first answer may wait for all dependencies to be bundled.
			ResponseHeaderTimeout: 2 * time.Minute,
			IdleConnTimeout:       time.Minute,
			MaxIdleConnsPerHost:   32,
		},
	}
	d.log.LogAttrs(context.Background(), slog.LevelWarn, "the frontend comes from a dev server: not for production",
		slog.String("server", d.target.String()))
	return d, nil
}

// loosened returns opts with what dev servers need. A hash, a nonce or
// 'strict-dynamic' beside 'unsafe-inline' would switch that off.
func loosened(opts Options) Options {
	add := func(sources map[string][]string, name string, more ...string) map[string][]string {
		changed := map[string][]string{}
		for k, v := range sources {
			changed[k] = slices.Clone(v)
		}
		changed[name] = append(changed[name], more...)
		return changed
	}
	opts.Sources = add(opts.Sources, "worker-src", "blob:")
	for _, name := range []string{"script-src", "style-src"} {
		opts.Sources[name] = slices.DeleteFunc(opts.Sources[name], func(s string) bool {
			return s == "'strict-dynamic'" || hashSource.MatchString(s)
		})
	}
	opts.InsecureSources = add(opts.InsecureSources, "script-src", "'unsafe-inline'", "'unsafe-eval'")
	opts.InsecureSources = add(opts.InsecureSources, "style-src", "'unsafe-inline'")
	return opts
}

// onlyLoopback refuses to connect to another machine, whatever localhost
// resolves to.
func onlyLoopback(_ context.Context, _, address string, _ syscall.RawConn) error {
	if host, _, err := net.SplitHostPort(address); err != nil || !isLoopback(host) {
		return fmt.Errorf("%s is not on this machine", address)
	}
	return nil
}

// A devProxy forwards to a dev server.
type devProxy struct {
	target  *url.URL
	proxy   *httputil.ReverseProxy
	headers headers
	log     *slog.Logger
}

func (d *devProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		d.headers.refuse(w, http.StatusMethodNotAllowed)
		return
	}
	if why := refuses(r); why != "" {
		d.page(w, r, http.StatusForbidden, devPage{Title: "Only for this machine", Text: why})
		return
	}
	d.proxy.ServeHTTP(w, r)
}

// refuses says why r may not see the dev server, or nothing.
func refuses(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err != nil || !isLoopback(host) {
		return "The frontend comes from a dev server, which is shown to this machine only, and the request came from another one. Serve the built files with spa.Handler instead."
	}
	if !isLoopback(hostname(r.Host)) {
		return "The frontend comes from a dev server, which is shown under a loopback name only, such as localhost, and not as " + r.Host + ". Serve the built files with spa.Handler instead."
	}
	if !cameFromHere(r.Header) {
		return "The frontend comes from a dev server, which is shown to this machine only, and a proxy says that the request came from elsewhere. Serve the built files with spa.Handler instead."
	}
	// A page elsewhere may link here, and the issuer leads back here. It must
	// neither load the sources nor open the WebSocket, whose handshake has an
	// Origin and no Fetch Metadata.
	if origin := r.Header["Origin"]; len(origin) > 0 || r.Header.Get("Upgrade") != "" {
		if len(origin) != 1 || origin[0] != "http://"+r.Host && origin[0] != "https://"+r.Host {
			return "The request came from a page of another origin."
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin":
	default:
		if r.Header.Get("Sec-Fetch-Mode") != "navigate" {
			return "The request came from a page of another origin."
		}
	}
	return ""
}

func hostname(hostport string) string { return (&url.URL{Host: hostport}).Hostname() }

// cameFromHere reports whether the proxies that a request passed name nobody
// but this machine.
func cameFromHere(header http.Header) bool {
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
		for v := range strings.SplitSeq(strings.Join(header[name], ","), ",") {
			if v = strings.TrimSpace(v); v != "" && !isLoopback(v) && !isLoopback(hostname(v)) {
				return false
			}
		}
	}
	return len(header["Forwarded"]) == 0 // RFC 7239: nobody sends it unasked
}

// rewrite makes the dev server's request. ReverseProxy has removed the
// forwarding headers.
func (d *devProxy) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL.Scheme, out.URL.Host = d.target.Scheme, d.target.Host
	out.URL.RawQuery = pr.In.URL.RawQuery
	out.Host = "" // the dev server knows its own name
	for _, name := range []string{"Cookie", "Authorization", "Proxy-Authorization", "X-Real-Ip"} {
		out.Header.Del(name)
	}
	if out.Header.Get("Origin") != "" { // ours, or it would not have come here
		out.Header.Set("Origin", d.target.String())
	}
}

// clean removes from the dev server's answer what would act on our origin, and
// makes it what Handler would have answered.
func (d *devProxy) clean(res *http.Response) error {
	for name := range res.Header {
		if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" || name == "Clear-Site-Data" || name == "Strict-Transport-Security" {
			delete(res.Header, name)
		}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	if u, err := url.Parse(res.Header.Get("Location")); err == nil && u.Host == d.target.Host {
		u.Scheme, u.Host = "", ""
		res.Header.Set("Location", u.String())
	}
	d.headers.set(res.Header, d.headers.static)
	// Dev servers send their index for whatever is not there.
	r := res.Request
	if isDocument(res.Header.Get("Content-Type")) && !isRoot(r.URL) && !isDocument(typeOf(r.URL.Path)) && !navigates(r) {
		res.Body.Close()
		text := "404 not found\n"
		res.Body = io.NopCloser(strings.NewReader(text))
		res.StatusCode, res.ContentLength = http.StatusNotFound, int64(len(text))
		res.Header = http.Header{
			"Content-Type":   {"text/plain; charset=utf-8"},
			"Cache-Control":  {"no-store"},
			"Content-Length": {fmt.Sprint(len(text))},
		}
		d.headers.set(res.Header, refusalPolicy)
	}
	return nil
}

// unreachable answers for a dev server that doesn't.
func (d *devProxy) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return // nobody waits for an answer
	}
	d.log.LogAttrs(r.Context(), slog.LevelWarn, "the dev server can't be reached", slog.String("err", err.Error()))
	d.page(w, r, http.StatusBadGateway, devPage{
		Title: "The dev server does not answer",
		Text: "Nothing answers at " + d.target.String() + ". Start it, with npm run dev for instance; this page then goes on by itself. " +
			"If it runs, look whether it listens at another port, or at the other of 127.0.0.1 and ::1: localhost finds both.",
		Detail:  err.Error(),
		Refresh: true,
	})
}

// A devPage explains to a developer what went wrong.
type devPage struct {
	Title, Text, Detail string
	Refresh             bool
}

var devTemplate = template.Must(template.New("dev").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
{{if .Refresh}}<meta http-equiv="refresh" content="2">{{end}}<title>{{.Title}}</title></head>
<body><h1>{{.Title}}</h1><p>{{.Text}}</p>{{with .Detail}}<pre>{{.}}</pre>{{end}}</body></html>
`))

// page answers a person with a page, and a script with its text.
func (d *devProxy) page(w http.ResponseWriter, r *http.Request, status int, p devPage) {
	body, contentType := p.Title+": "+p.Text+"\n", "text/plain; charset=utf-8"
	if navigates(r) {
		var b strings.Builder
		if err := devTemplate.Execute(&b, p); err == nil {
			body, contentType = b.String(), "text/html; charset=utf-8"
		}
	}
	d.headers.set(w.Header(), refusalPolicy)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	io.WriteString(w, body)
}
