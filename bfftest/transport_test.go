package bfftest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/bfftest"
)

func serving(h http.HandlerFunc) *http.Client {
	return &http.Client{Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": h})}
}

// What arrives is what a server would read.
func TestInboundRequest(t *testing.T) {
	type key struct{}
	client := serving(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s host=%s url=%s uri=%s tls=%v len=%d body=%s %v value=%v", r.Method, r.Proto, r.Host, r.URL, r.RequestURI, r.TLS != nil, r.ContentLength, body, err, r.Context().Value(key{}))
	})
	ctx := context.WithValue(t.Context(), key{}, "leaked")
	req, err := http.NewRequestWithContext(ctx, "POST", "https://API.example.com:443/a%2fb?q=1#frag", strings.NewReader("hi"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	want := "POST HTTP/1.1 host=API.example.com:443 url=/a%2fb?q=1 uri=/a%2fb?q=1 tls=true len=2 body=hi <nil> value=<nil>"
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	if got := res.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type = %q, want it sniffed", got)
	}
}

// Bodies stream both ways, and a handler sees its client go.
func TestStreaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		client := serving(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				fmt.Fprintln(w, "echo", lines.Text())
			}
			<-r.Context().Done()
			close(gone)
		})
		pr, pw := io.Pipe()
		res, err := client.Post("https://api.example.com/", "text/plain", pr)
		if err != nil {
			t.Fatal(err)
		}
		answers := bufio.NewReader(res.Body)
		for _, word := range []string{"one", "two"} {
			fmt.Fprintln(pw, word)
			if got, err := answers.ReadString('\n'); got != "echo "+word+"\n" {
				t.Errorf("got %q, %v", got, err)
			}
			time.Sleep(time.Hour)
		}
		pw.Close()
		res.Body.Close()
		<-gone
	})
}

// A context that ends stops whatever the client waits for.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := serving(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/header" {
				<-r.Context().Done()
				return
			}
			fmt.Fprint(w, "part")
			if r.URL.Path == "/flood" {
				for {
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						return
					}
				}
			}
			<-r.Context().Done()
		})
		for _, path := range []string{"/header", "/body", "/flood"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			req, _ := http.NewRequestWithContext(ctx, "GET", "https://api.example.com"+path, nil)
			res, err := client.Do(req)
			if err == nil {
				time.Sleep(2 * time.Second)
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want the deadline", path, err)
			}
			cancel()
		}
		res, err := client.Get("https://api.example.com/flood")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close() // the handler's Write fails, or the bubble never ends
	})
}

func TestAnswers(t *testing.T) {
	client := serving(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/empty":
		case "/204":
			w.WriteHeader(204)
		case "/split":
			w.Header().Set("X-Split", "a\r\nSet-Cookie: evil=1")
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/panic":
			panic("oh")
		case "/late-abort":
			fmt.Fprint(w, "part")
			panic(http.ErrAbortHandler)
		case "/text":
			fmt.Fprint(w, "text")
		}
	})
	for _, row := range []struct {
		method, path string
		status       int
		body, err    string
	}{
		{"GET", "/empty", 200, "", ""},
		{"GET", "/204", 204, "", ""},
		{"HEAD", "/text", 200, "", ""},
		{"GET", "/text", 200, "text", ""},
		{"GET", "/abort", 0, "", "unexpected EOF"},
		{"GET", "/panic", 0, "", "the handler panicked: oh"},
		{"GET", "/late-abort", 200, "part", "unexpected EOF"},
	} {
		req, _ := http.NewRequest(row.method, "https://api.example.com"+row.path, nil)
		res, err := client.Do(req)
		status, body := 0, []byte(nil)
		if err == nil {
			status = res.StatusCode
			body, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if status != row.status || string(body) != row.body || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s %s = %d %q, %v; want %d %q, %q", row.method, row.path, status, body, err, row.status, row.body, row.err)
		}
	}
	res, err := client.Get("https://api.example.com/split")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.Header.Get("Set-Cookie") != "" || res.Header.Get("X-Split") != "a  Set-Cookie: evil=1" {
		t.Errorf("a line break in a header field made %v", res.Header)
	}
	if _, err := client.Get("https://other.example.com/"); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("GET from elsewhere: %v, want no such host", err)
	}
}

// Early hints and trailers pass a reverse proxy.
func TestHintsAndTrailers(t *testing.T) {
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(103)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "body")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Late", "2")
	})
	target, _ := url.Parse("https://api.example.com")
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": api}),
	}
	client := &http.Client{Transport: bfftest.InProcess(map[string]http.Handler{appURL: proxy})}
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		},
	})
	req, _ := http.NewRequestWithContext(ctx, "GET", appURL+"/", nil)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, ok := res.Trailer["X-Sum"]; !ok {
		t.Error("the trailer isn't announced")
	}
	body, err := io.ReadAll(res.Body)
	if string(body) != "body" || err != nil {
		t.Errorf("body = %q, %v", body, err)
	}
	if len(hints) != 1 || hints[0] != "103</a.css>" && hints[0] != "103 </a.css>" {
		t.Errorf("hints = %q", hints)
	}
	if res.Trailer.Get("X-Sum") != "1" || res.Trailer.Get("X-Late") != "2" {
		t.Errorf("trailer = %v", res.Trailer)
	}
}
