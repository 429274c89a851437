package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	appHost      = "app.shop-e2e.com"
	siblingHost  = "blog.shop-e2e.com" // same site as the app, another origin
	issuerHost   = "login.idp-e2e.org"
	strangerHost = "www.evil-e2e.net"

	clientID  = "shop"
	accessTTL = 5 // seconds, the life of an access token

	// A run that hangs is ended from inside, with its children, before go
	// test's own timeout would leave them behind.
	watchdog = 14 * time.Minute
)

// The two lanes. Each is started by the first test that needs it.
var (
	tlsLane      = &lane{tls: true}
	loopbackLane = &lane{}
)

func TestMain(m *testing.M) {
	stop := func() error { return errors.Join(tlsLane.stop(), loopbackLane.stop(), removeBuild()) }
	time.AfterFunc(watchdog, func() {
		fmt.Fprintf(os.Stderr, "e2e: not done after %v\n", watchdog)
		stop()
		os.Exit(3)
	})
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// A lane starts its world once.
type lane struct {
	tls   bool
	once  sync.Once
	world *world
	err   error
}

func (l *lane) start(t *testing.T) *world {
	t.Helper()
	l.once.Do(func() { l.world, l.err = newWorld(l.tls, "") })
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.world
}

func (l *lane) stop() error {
	if l.world == nil {
		return nil
	}
	return l.world.close()
}

// A world is everything around the browser: the fronts, the issuer, the
// upstream API and, once asked for, the gateway.
type world struct {
	tls      bool
	dir      string
	ca       *ca
	seen     transcript
	app      *front // what the browser knows as the app
	sibling  *front // TLS only
	issuerAt *front
	stranger *front
	tunnel   *tunnel
	routes   map[string]string // host:port -> front, TLS only
	issuer   *issuer
	upstream *upstream
	keys     string // what its gateways seal with

	gatewayOnce sync.Once
	gatewayErr  error
	gateways    []*process
}

func (w *world) callbackURL() string   { return w.app.origin + "/auth/callback" }
func (w *world) postLogoutURL() string { return w.app.origin + "/goodbye" }

// newWorld starts one. With back-channel logout the issuer tells the app of
// sign-outs, by its session ("sid") or by the subject alone ("sub").
func newWorld(tls bool, backchannel string) (_ *world, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	key := make([]byte, 32)
	rand.Read(key)
	w := &world{tls: tls, routes: map[string]string{}, keys: base64.StdEncoding.EncodeToString(key)}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "bff-e2e-"); err != nil {
		return nil, err
	}
	if w.ca, err = newCA(w.dir); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		to         **front
		name, host string
	}{
		{&w.app, "app", appHost},
		{&w.sibling, "sibling", siblingHost},
		{&w.issuerAt, "issuer", issuerHost},
		{&w.stranger, "stranger", strangerHost},
	} {
		host := f.host
		if !tls {
			host = ""
		}
		if *f.to, err = newFront(f.name, host, w.ca, &w.seen); err != nil {
			return nil, err
		}
		if tls {
			w.routes[host+":443"] = (*f.to).addr
		}
	}
	var env []string
	if backchannel != "" {
		env = []string{
			"BACKCHANNEL=" + backchannel,
			"BACKCHANNEL_URI=" + w.app.origin + "/auth/backchannel-logout",
			"BACKCHANNEL_AT=" + w.app.addr,
			"NODE_EXTRA_CA_CERTS=" + w.ca.file,
		}
	}
	if w.issuer, err = startIssuer(ctx, w.issuerAt.origin, clientID, w.callbackURL(), w.postLogoutURL(), env...); err != nil {
		return nil, err
	}
	w.issuerAt.to(w.issuer.addr)
	// The gateway has business with the issuer and with nobody else.
	if w.tunnel, err = newTunnel(map[string]string{issuerHost + ":443": w.issuerAt.addr}); err != nil {
		return nil, err
	}
	if w.upstream, err = newUpstream(w.issuerAt.origin, w.client()); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *world) close() error {
	var errs []error
	for _, g := range w.gateways {
		errs = append(errs, g.stop())
	}
	if w.issuer != nil {
		errs = append(errs, w.issuer.stop())
	}
	for _, f := range []*front{w.app, w.sibling, w.issuerAt, w.stranger} {
		if f != nil {
			f.close()
		}
	}
	if w.tunnel != nil {
		w.tunnel.close()
		if strays := w.tunnel.strays(); len(strays) > 0 {
			errs = append(errs, fmt.Errorf("the gateway asked for %s", strings.Join(strays, ", ")))
		}
	}
	if w.upstream != nil {
		w.upstream.close()
	}
	for _, g := range w.gateways {
		if log := g.log.String(); strings.Contains(log, "DATA RACE") {
			errs = append(errs, fmt.Errorf("data race in the gateway:\n%s", log))
		}
	}
	errs = append(errs, os.RemoveAll(w.dir))
	return errors.Join(errs...)
}

// client is a Go HTTP client that lives in this world. It follows no redirect.
func (w *world) client() *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext:       dialer(w.routes),
			TLSClientConfig:   &tls.Config{RootCAs: w.ca.pool()},
			ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// The gateway is built once for both lanes.
var build struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func buildGateway() (string, error) {
	build.once.Do(func() {
		root, err := filepath.Abs(filepath.Join("..", ".."))
		if err != nil {
			build.err = err
			return
		}
		if build.dir, build.err = os.MkdirTemp("", "bff-e2e-build-"); build.err != nil {
			return
		}
		build.path = filepath.Join(build.dir, "gateway")
		args := []string{"build", "-o", build.path}
		if os.Getenv("E2E_RACE") == "1" {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./examples/gateway")...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("go build ./examples/gateway: %w\n%s", err, out)
		}
	})
	return build.path, build.err
}

func removeBuild() error {
	if build.dir == "" {
		return nil
	}
	return os.RemoveAll(build.dir)
}

// withGateway has the gateway running behind the app's front.
func (w *world) withGateway(t *testing.T) *world {
	t.Helper()
	w.gatewayOnce.Do(func() { w.gatewayErr = w.startGateway(w.app) })
	if w.gatewayErr != nil {
		t.Fatal(w.gatewayErr)
	}
	return w
}

// startGateway starts a gateway behind a front. env comes on top of what all
// gateways of this world get.
func (w *world) startGateway(behind *front, env ...string) error {
	path, err := buildGateway()
	if err != nil {
		return err
	}
	spa, err := filepath.Abs("spa")
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	cmd := exec.Command(path)
	cmd.Dir = w.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + w.dir,
		"BFF_LISTEN=" + addr,
		"BFF_ISSUER=" + w.issuerAt.origin,
		"BFF_CLIENT_ID=" + clientID,
		"BFF_REDIRECT_URL=" + w.callbackURL(),
		"BFF_SCOPES=openid profile email",
		"BFF_KEYS=" + w.keys,
		"BFF_STORE=memory",
		"BFF_UPSTREAM=" + w.upstream.origin,
		"BFF_SPA_DIR=" + spa,
		"BFF_REFRESH_MARGIN=1s",
		"BFF_POST_LOGOUT_URL=" + w.postLogoutURL(),
		"SSL_CERT_FILE=" + w.ca.file,
		"SSL_CERT_DIR=" + w.dir,
		"HTTPS_PROXY=http://" + w.tunnel.addr,
		"HTTP_PROXY=http://" + w.tunnel.addr, // loopback is exempt: it refuses all plain http
	}
	cmd.Env = append(cmd.Env, env...)
	p, err := startProcess("gateway", cmd)
	if err != nil {
		return err
	}
	ready := func() bool {
		resp, err := http.Get("http://" + addr + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	for deadline := time.Now().Add(30 * time.Second); !ready(); {
		select {
		case <-p.done:
			return fmt.Errorf("the gateway ended at once:\n%s", p.log.String())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.stop()
			return fmt.Errorf("the gateway's /healthz does not answer 200:\n%s", p.log.String())
		}
	}
	w.gateways = append(w.gateways, p)
	behind.to(addr)
	return nil
}

// freeAddr finds a loopback address nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
