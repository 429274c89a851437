package issuer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"

	"golang.org/x/oauth2"
)

// maxBody bounds every body that we read from the issuer.
const maxBody = 1 << 20

var (
	errTooLarge = errors.New("the body is larger than 1 MiB")
	errRedirect = errors.New("redirects are not followed")
)

// A trip is one request to the issuer and its answer.
type trip struct {
	began  bool // it reached our RoundTripper
	traced atomic.Bool
	sent   atomic.Bool // its header went out

	whole  bool // the fields below are set
	status int
	header http.Header
	body   []byte
}

type tripKey struct{}

// send makes one request by do, whose context carries our HTTP client as
// go-oidc and x/oauth2 expect it. Without an error there is a whole answer,
// whatever do made of it.
func (c *Client) send(ctx context.Context, op string, do func(context.Context) error) (*trip, *Error) {
	if err := ctx.Err(); err != nil {
		return nil, &Error{Op: op, Kind: Unreachable, Err: err}
	}
	t := new(trip)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	ctx = context.WithValue(ctx, tripKey{}, t)
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c.http)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { t.traced.Store(true) },
		WroteHeaders: func() { t.sent.Store(true) },
	})
	err := do(ctx)
	if t.whole {
		return t, nil
	}
	e := &Error{Op: op, Kind: Lost, Err: plain(err)}
	switch {
	case errors.Is(err, errRedirect):
		e.Kind, e.Status = Answered, t.status
	case errors.Is(err, errTooLarge):
		e.Kind = Malformed
	case !t.began:
		e.Kind = Unreachable
	case t.sent.Load():
	case t.traced.Load(), isDial(err):
		e.Kind = Unreachable
	}
	return nil, e
}

// do sends req for the endpoints that no library of ours knows.
func (c *Client) do(ctx context.Context, op string, req *http.Request) (*trip, *Error) {
	return c.send(ctx, op, func(ctx context.Context) error {
		resp, err := c.http.Do(req.WithContext(ctx))
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// transport is the one place where the issuer's answers come in. It reads them
// whole: neither go-oidc nor x/oauth2 bounds what it reads, or reports that it
// read only a part.
type transport struct{ base http.RoundTripper }

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	trip, _ := ctx.Value(tripKey{}).(*trip)
	if trip == nil {
		return nil, errors.New("issuer: a request from elsewhere")
	}
	trip.began = true
	if req.Header.Get("Accept") == "" {
		req = req.Clone(ctx)
		req.Header.Set("Accept", "application/json")
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	answer := resp.Body
	stop := context.AfterFunc(ctx, func() { answer.Close() })
	body, err := io.ReadAll(io.LimitReader(answer, maxBody+1))
	stop()
	answer.Close()
	if err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if len(body) > maxBody { // check:body-limit
		return nil, errTooLarge
	}
	trip.status = resp.StatusCode
	// RFC 9700, section 4.12: the next hop would see the code, the refresh
	// token or the secret.
	if resp.StatusCode/100 == 3 { // check:redirect
		return nil, errRedirect
	}
	trip.header, trip.body, trip.whole = resp.Header, body, true
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// isDial reports whether err came from connecting, when no trace tells.
func isDial(err error) bool {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return true
	}
	_, ok := errors.AsType[*net.DNSError](err)
	return ok
}

// plain keeps of err what can hold no secret. The text of a url.Error holds
// the query, net/http quotes what a broken server sent, and a RoundTripper may
// say anything.
func plain(err error) error {
	for _, known := range []error{
		context.Canceled, context.DeadlineExceeded, errTooLarge, errRedirect,
		http.ErrSchemeMismatch, io.ErrUnexpectedEOF, io.EOF,
	} {
		if errors.Is(err, known) {
			return known
		}
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return fmt.Errorf("the request failed (%T)", err)
}
