package bfftest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"time"
)

// A socket is what an issuer that was started has.
type socket struct {
	transport *http.Transport
	pool      *x509.CertPool
	pem       []byte
}

// Start serves the issuer at a TCP address such as "localhost:9000" or
// "127.0.0.1:0", over http, or https with Options.TLS. If Options.BaseURL is
// empty, the base URL is now the host of addr with the port. A browser takes
// localhost and 127.0.0.1 for different sites, and all ports of each for one.
//
// stop closes the listener and waits for running requests until ctx ends.
func (iss *Issuer) Start(addr string) (stop func(ctx context.Context) error, err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("bfftest: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("bfftest: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("bfftest: %w", err)
	}
	base, names := iss.opts.BaseURL, []string{host, "localhost", "127.0.0.1", "::1"}
	if base == "" {
		base = "http://" + net.JoinHostPort(host, port)
		if iss.opts.TLS {
			base = "https://" + net.JoinHostPort(host, port)
		}
	} else if u, err := url.Parse(base); err == nil {
		names = append(names, u.Hostname())
	}
	s := &socket{transport: &http.Transport{
		// Whatever name the base URL has, this is where it leads.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, l.Addr().String())
		},
	}}
	running, cancel := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler:           iss,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return running },
	}
	if iss.opts.TLS {
		cert, err := s.certificate(names)
		if err != nil {
			l.Close()
			cancel()
			return nil, fmt.Errorf("bfftest: %w", err)
		}
		s.transport.TLSClientConfig = &tls.Config{RootCAs: s.pool}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	iss.mu.Lock()
	iss.base, iss.socket = base, s
	iss.mu.Unlock()

	served := make(chan error, 1)
	go func() {
		if iss.opts.TLS {
			served <- srv.ServeTLS(l, "", "")
		} else {
			served <- srv.Serve(l)
		}
	}()
	return func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		cancel() // wakes what hangs
		if err != nil {
			srv.Close()
		}
		s.transport.CloseIdleConnections()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}, nil
}

// StartIssuer returns an issuer that listens on a free port of 127.0.0.1 until
// the test ends.
func StartIssuer(t TB, opts Options) *Issuer {
	t.Helper()
	iss := NewIssuer(opts)
	stop, err := iss.Start("127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // nobody is waiting for what still runs
		stop(ctx)
	})
	return iss
}

// CertPool returns the certificate authority that was made for an issuer with
// Options.TLS when it started, else nil.
func (iss *Issuer) CertPool() *x509.CertPool {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	if iss.socket == nil {
		return nil
	}
	return iss.socket.pool
}

// CertPEM returns the certificate of that authority in PEM, else nil.
func (iss *Issuer) CertPEM() []byte {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	if iss.socket == nil {
		return nil
	}
	return iss.socket.pem
}

// certificate makes a certificate authority, and a certificate for names.
func (s *socket) certificate(names []string) (tls.Certificate, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bfftest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	s.pool = x509.NewCertPool()
	s.pool.AddCert(ca)
	s.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
