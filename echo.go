package bff

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
)

var errEcho = errors.New("the answer repeats the access token")

// echoes reports whether any of the values contains the token that was sent.
func (f *forwarded) echoes(values []string) bool {
	if f.bearer == "" {
		return false
	}
	for _, v := range values {
		if strings.Contains(v, f.token().Reveal()) {
			return true
		}
	}
	return false
}

// guard refuses an answer whose header repeats the token, and has its body
// searched as it passes.
func (f *forwarded) guard(res *http.Response) error {
	if f.bearer == "" {
		return nil
	}
	for _, values := range res.Header {
		if f.echoes(values) { // check:echo-header
			return newProblem(BadGateway, errEcho)
		}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	if e := res.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") { // check:echo-encoding
		return newProblem(BadGateway, errors.New("the answer is compressed unasked, so it can't be searched for the token"))
	}
	res.Body = &echoGuard{ReadCloser: res.Body, token: []byte(f.token().Reveal())}
	return nil
}

// An echoGuard passes a body on that does not contain the token, and fails
// before it gives out the last byte of one that does. It keeps back no more
// than what could be the token's beginning.
type echoGuard struct {
	io.ReadCloser
	token []byte
	buf   []byte
	out   []byte // checked, and not given out yet
	kept  int    // how many bytes after out could begin the token
	err   error
}

func (g *echoGuard) Read(p []byte) (int, error) {
	for len(g.out) == 0 && g.err == nil {
		g.fill()
	}
	if len(g.out) == 0 {
		return 0, g.err
	}
	n := copy(p, g.out)
	g.out = g.out[n:]
	return n, nil
}

func (g *echoGuard) fill() {
	if g.buf == nil {
		g.buf = make([]byte, len(g.token)+16<<10)
	}
	// out is empty and ends where the kept bytes begin.
	copy(g.buf, g.out[:g.kept:g.kept])
	n, err := g.ReadCloser.Read(g.buf[g.kept:])
	data := g.buf[:g.kept+n]
	if g.err = err; bytes.Contains(data, g.token) { // check:echo-body
		g.err, g.kept = errEcho, 0
		return
	}
	g.kept = 0
	if err == nil {
		g.kept = overlap(data, g.token)
	}
	g.out = data[:len(data)-g.kept]
}

// overlap returns the length of the longest end of data that token begins with.
func overlap(data, token []byte) int {
	for n := min(len(data), len(token)-1); n > 0; n-- {
		if bytes.HasPrefix(token, data[len(data)-n:]) {
			return n
		}
	}
	return 0
}
