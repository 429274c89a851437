package proxytest

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// testService answers gRPC's own interoperability calls, to those who bring a
// token and no cookie.
type testService struct {
	grpc_testing.UnimplementedTestServiceServer
}

func admit(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if !hasToken(md["authorization"]) || len(md["cookie"]) > 0 || len(md["x-csrf"]) > 0 {
		return status.Error(codes.Unauthenticated, "no token, or too much")
	}
	return nil
}

func (testService) EmptyCall(ctx context.Context, _ *grpc_testing.Empty) (*grpc_testing.Empty, error) {
	return &grpc_testing.Empty{}, admit(ctx)
}

func (testService) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if err := admit(ctx); err != nil {
		return nil, err
	}
	grpc.SetHeader(ctx, metadata.Pairs("x-initial", "1"))
	grpc.SetTrailer(ctx, metadata.Pairs("x-trailing-bin", "\xab\xcd"))
	if s := r.ResponseStatus; s.GetCode() != 0 {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &grpc_testing.SimpleResponse{Payload: &grpc_testing.Payload{Body: make([]byte, r.ResponseSize)}}, nil
}

func (testService) StreamingOutputCall(r *grpc_testing.StreamingOutputCallRequest, s grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
	if err := admit(s.Context()); err != nil {
		return err
	}
	for _, p := range r.ResponseParameters {
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: make([]byte, p.Size)}}); err != nil {
			return err
		}
	}
	return nil
}

func (testService) StreamingInputCall(s grpc.ClientStreamingServer[grpc_testing.StreamingInputCallRequest, grpc_testing.StreamingInputCallResponse]) error {
	if err := admit(s.Context()); err != nil {
		return err
	}
	sum := 0
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		sum += len(r.GetPayload().GetBody())
	}
}

func (testService) FullDuplexCall(s grpc.BidiStreamingServer[grpc_testing.StreamingOutputCallRequest, grpc_testing.StreamingOutputCallResponse]) error {
	if err := admit(s.Context()); err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

// grpcServer serves testService on loopback and returns its URL.
func grpcServer(t *testing.T, opts ...grpc.ServerOption) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	grpc_testing.RegisterTestServiceServer(s, testService{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return "http://" + l.Addr().String()
}

// gRPC, from its own client over TLS to its own server over plain HTTP/2, with
// a session cookie on one side and a bearer token on the other.
func TestGRPC(t *testing.T) {
	g := newGateway(t, true, bff.Upstream{URL: grpcServer(t), H2C: true})
	roots := x509.NewCertPool()
	roots.AddCert(g.Certificate())
	conn, err := grpc.NewClient(g.Listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(roots, "")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := grpc_testing.NewTestServiceClient(conn)
	anonymous, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ctx := metadata.AppendToOutgoingContext(anonymous, "cookie", g.cookie, "x-csrf", "1", "x-user-id", "admin")

	t.Run("unary", func(t *testing.T) {
		if _, err := client.EmptyCall(ctx, &grpc_testing.Empty{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("large-with-metadata", func(t *testing.T) {
		var header, trailer metadata.MD
		r, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseSize: 314159, Payload: &grpc_testing.Payload{Body: make([]byte, 271828)}},
			grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || len(r.Payload.Body) != 314159 {
			t.Fatalf("%d bytes, %v", len(r.GetPayload().GetBody()), err)
		}
		if strings.Join(header["x-initial"], "") != "1" || strings.Join(trailer["x-trailing-bin"], "") != "\xab\xcd" {
			t.Errorf("header %v, trailer %v", header, trailer)
		}
	})
	t.Run("compressed", func(t *testing.T) {
		if _, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 100000)}}, grpc.UseCompressor(gzip.Name)); err != nil {
			t.Error(err)
		}
	})
	t.Run("status", func(t *testing.T) {
		_, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: 2, Message: "t\u00e9st\n%"}})
		if s := status.Convert(err); s.Code() != codes.Unknown || s.Message() != "t\u00e9st\n%" {
			t.Errorf("status %v", s)
		}
	})
	t.Run("unimplemented", func(t *testing.T) {
		if _, err := client.UnimplementedCall(ctx, &grpc_testing.Empty{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("status %v", err)
		}
	})
	t.Run("server-streaming", func(t *testing.T) {
		s, err := client.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{ResponseParameters: []*grpc_testing.ResponseParameters{{Size: 31415}, {Size: 9}, {Size: 2653}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{31415, 9, 2653} {
			if r, err := s.Recv(); err != nil || len(r.Payload.Body) != want {
				t.Fatalf("%d bytes, %v; want %d", len(r.GetPayload().GetBody()), err, want)
			}
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("then %v", err)
		}
	})
	t.Run("client-streaming", func(t *testing.T) {
		s, err := client.StreamingInputCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{27182, 8, 1828, 45904} {
			if err := s.Send(&grpc_testing.StreamingInputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, n)}}); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := s.CloseAndRecv(); err != nil || r.AggregatedPayloadSize != 74922 {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("ping-pong", func(t *testing.T) {
		s, err := client.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 27182, 0, 45904} {
			if err := s.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: make([]byte, n)}}); err != nil {
				t.Fatal(err)
			}
			if r, err := s.Recv(); err != nil || len(r.GetPayload().GetBody()) != n {
				t.Fatalf("%d bytes, %v; want %d", len(r.GetPayload().GetBody()), err, n)
			}
		}
		s.CloseSend()
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("then %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		s, err := client.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := s.Recv(); status.Code(err) != codes.Canceled {
			t.Errorf("status %v", err)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		if _, err := client.EmptyCall(anonymous, &grpc_testing.Empty{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("status %v", err)
		}
	})
	t.Run("without-proof", func(t *testing.T) {
		ctx := metadata.AppendToOutgoingContext(anonymous, "cookie", g.cookie)
		if _, err := client.EmptyCall(ctx, &grpc_testing.Empty{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("status %v", err)
		}
	})
}

// A handler's own gRPC calls bring the session's token, and only to an upstream
// that was named.
func TestGRPCCredentials(t *testing.T) {
	var _ credentials.PerRPCCredentials = (*bff.Credentials)(nil)

	url, other := grpcServer(t), grpcServer(t)
	iss := bfftest.NewIssuer(bfftest.Options{})
	auth, err := bff.New(t.Context(), bff.Config{
		Issuer: iss.URL(), ClientID: iss.ClientID(), RedirectURL: appURL + "/auth/callback", Keys: []bff.Key{bff.NewKey()},
		HTTPClient: iss.Client(), Upstreams: []bff.Upstream{{URL: url, H2C: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string]grpc_testing.TestServiceClient{}
	for _, u := range []string{url, other} {
		// Made once, as generated clients are; the session is in each call's context.
		conn, err := grpc.NewClient(strings.TrimPrefix(u, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithPerRPCCredentials(auth.Credentials(context.Background())))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients[u] = grpc_testing.NewTestServiceClient(conn)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /call", auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := clients[url].EmptyCall(r.Context(), &grpc_testing.Empty{}); err != nil {
			t.Errorf("at the upstream: %v", err)
		}
		if _, err := clients[url].EmptyCall(context.Background(), &grpc_testing.Empty{}); err == nil {
			t.Error("without a session, the call succeeds")
		}
		if _, err := clients[other].EmptyCall(r.Context(), &grpc_testing.Empty{}); err == nil || status.Convert(err).Message() == "no token, or too much" {
			t.Errorf("elsewhere: %v; want nothing sent", err)
		}
	}))
	b := bfftest.NewBrowser(auth.Routes(mux), appURL, iss)
	if r := b.SignIn("alice"); r.Err != nil {
		t.Fatal(r.Err)
	}
	if r := b.Fetch("GET", "/call", nil, nil); r.Status != 200 {
		t.Errorf("GET /call = %v", r)
	}
}
