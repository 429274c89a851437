package proxytest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/agglestone/bff"
)

// gRPC-Web and Connect, as browsers speak them, over HTTP/1.1 and HTTP/2: one
// answer, an answer of many parts, and an error with its details in trailers
// that are part of the body.
func TestGRPCWeb(t *testing.T) {
	type text = wrapperspb.StringValue
	admit := func(h http.Header) error {
		if !hasToken(h["Authorization"]) || h.Get("Cookie") != "" {
			return connect.NewError(connect.CodeUnauthenticated, errors.New("no token, or too much"))
		}
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/test.Echo/Once", connect.NewUnaryHandler("/test.Echo/Once", func(_ context.Context, r *connect.Request[text]) (*connect.Response[text], error) {
		if err := admit(r.Header()); err != nil {
			return nil, err
		}
		if r.Msg.Value == "fail" {
			err := connect.NewError(connect.CodeFailedPrecondition, errors.New("as asked: caf\u00e9"))
			err.Meta().Set("X-Detail", "7")
			return nil, err
		}
		res := connect.NewResponse(&text{Value: strings.ToUpper(r.Msg.Value)})
		res.Trailer().Set("X-Trailing", "1")
		return res, nil
	}))
	mux.Handle("/test.Echo/Often", connect.NewServerStreamHandler("/test.Echo/Often", func(_ context.Context, r *connect.Request[text], s *connect.ServerStream[text]) error {
		if err := admit(r.Header()); err != nil {
			return err
		}
		for part := range strings.FieldsSeq(r.Msg.Value) {
			if err := s.Send(&text{Value: part}); err != nil {
				return err
			}
		}
		return nil
	}))
	up := h2c(t, mux)
	for _, secure := range []bool{false, true} {
		g := newGateway(t, secure, bff.Upstream{URL: up.URL + "/", Path: "/rpc", StripPrefix: "/rpc"})
		for name, option := range map[string]connect.ClientOption{"grpc-web": connect.WithGRPCWeb(), "connect": connect.WithClientOptions()} {
			t.Run(map[bool]string{false: "http1-", true: "http2-"}[secure]+name, func(t *testing.T) {
				asBrowser := connect.WithInterceptors(browser(g.cookie))
				once := connect.NewClient[text, text](g.Client(), g.URL+"/rpc/test.Echo/Once", option, asBrowser)
				res, err := once.CallUnary(t.Context(), connect.NewRequest(&text{Value: "hello"}))
				if err != nil {
					t.Fatal(err)
				}
				if res.Msg.Value != "HELLO" || res.Trailer().Get("X-Trailing") != "1" {
					t.Errorf("%q, trailer %v", res.Msg.Value, res.Trailer())
				}
				_, err = once.CallUnary(t.Context(), connect.NewRequest(&text{Value: "fail"}))
				var failed *connect.Error
				if !errors.As(err, &failed) || failed.Code() != connect.CodeFailedPrecondition || failed.Message() != "as asked: caf\u00e9" || failed.Meta().Get("X-Detail") != "7" {
					t.Errorf("failure %v", err)
				}
				often := connect.NewClient[text, text](g.Client(), g.URL+"/rpc/test.Echo/Often", option, asBrowser)
				s, err := often.CallServerStream(t.Context(), connect.NewRequest(&text{Value: "a b c"}))
				if err != nil {
					t.Fatal(err)
				}
				var parts []string
				for s.Receive() {
					parts = append(parts, s.Msg().Value)
				}
				if s.Err() != nil || strings.Join(parts, " ") != "a b c" {
					t.Errorf("stream %q, %v", parts, s.Err())
				}
			})
		}
	}
}

// browser adds what a browser does, and a script.
type browser string

func (cookie browser) add(h http.Header) {
	h.Set("Cookie", string(cookie))
	h.Set("X-CSRF", "1")
	h.Set("X-Grpc-Web", "1")
}

func (cookie browser) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		cookie.add(r.Header())
		return next(ctx, r)
	}
}

func (cookie browser) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		cookie.add(conn.RequestHeader())
		return conn
	}
}

func (browser) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
