package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// An issuer is the Node process in issuer/server.mjs.
type issuer struct {
	*process
	addr    string // where it speaks plain http, behind its front
	control string // URL of its control port
}

// issuerStats is what the control port tells. See server.mjs for the meaning.
type issuerStats struct {
	Token       map[string]int `json:"token"`
	TokenErrors []struct {
		Grant       string `json:"grant"`
		Error       string `json:"error"`
		Description string `json:"description"`
	} `json:"tokenErrors"`
	Refreshes []issuerRefresh `json:"refreshes"`
	Issued    []struct {
		Kind    string `json:"kind"`
		Value   string `json:"value"`
		Account string `json:"account"`
		At      int64  `json:"at"` // Unix milliseconds
	} `json:"issued"`
	Authorizations int `json:"authorizations"`
	Interactions   int `json:"interactions"`
	Revocations    int `json:"revocations"`
	GrantsRevoked  int `json:"grantsRevoked"`
	EndSessions    int `json:"endSessions"`
}

// An issuerRefresh is one refresh-token grant as the issuer saw it.
type issuerRefresh struct {
	Account string `json:"account"`
	Via     string `json:"via"`   // which gateway asked
	Began   int64  `json:"began"` // Unix milliseconds
	Ended   int64  `json:"ended"`
	Error   string `json:"error"`
}

// startIssuer runs the issuer and waits for its ports.
func startIssuer(ctx context.Context, id, clientID, redirectURI, postLogoutURI string, env ...string) (*issuer, error) {
	dir, err := filepath.Abs("issuer")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider")); err != nil {
		return nil, fmt.Errorf("the issuer's packages are not installed; run \"make setup\": %w", err)
	}
	node, err := findNode()
	if err != nil {
		return nil, fmt.Errorf("node is needed for the issuer; run \"make setup\": %w", err)
	}
	jwks, err := newJWKS()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(node, "server.mjs")
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"ISSUER=" + id,
		"CLIENT_ID=" + clientID,
		"REDIRECT_URIS=" + redirectURI,
		"POST_LOGOUT_URIS=" + postLogoutURI,
		"JWKS=" + jwks,
		fmt.Sprintf("ACCESS_TTL=%d", accessTTL),
		"BEHIND_PROXY=1",
	}
	cmd.Env = append(cmd.Env, env...)
	ready := &firstLine{line: make(chan []byte, 1)}
	cmd.Stdout = ready
	// The issuer ends with its stdin: it can't outlive this process.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p, err := startProcess("issuer", cmd)
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	select {
	case line := <-ready.line:
		var ports struct {
			Port    int `json:"port"`
			Control int `json:"control"`
		}
		if err := json.Unmarshal(line, &ports); err != nil {
			p.stop()
			return nil, fmt.Errorf("the issuer's first line is %q: %w", line, err)
		}
		return &issuer{
			process: p,
			addr:    fmt.Sprintf("127.0.0.1:%d", ports.Port),
			control: fmt.Sprintf("http://127.0.0.1:%d", ports.Control),
		}, nil
	case <-p.done:
		return nil, fmt.Errorf("the issuer did not start:\n%s", p.log.String())
	case <-ctx.Done():
		p.stop()
		return nil, fmt.Errorf("the issuer did not start in time: %w\n%s", ctx.Err(), p.log.String())
	}
}

// newJWKS makes the issuer's signing key.
func newJWKS() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	b64 := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	out, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "e2e",
		"n": b64(key.N), "e": b64(big.NewInt(int64(key.E))), "d": b64(key.D),
		"p": b64(key.Primes[0]), "q": b64(key.Primes[1]),
		"dp": b64(key.Precomputed.Dp), "dq": b64(key.Precomputed.Dq), "qi": b64(key.Precomputed.Qinv),
	}}})
	return string(out), err
}

// A firstLine hands over the first line that is written to it and drops the
// rest.
type firstLine struct {
	line chan []byte
	buf  []byte
	done bool
}

func (f *firstLine) Write(p []byte) (int, error) {
	if !f.done {
		f.buf = append(f.buf, p...)
		if line, _, ok := bytes.Cut(f.buf, []byte("\n")); ok {
			f.done = true
			f.line <- line
		}
	}
	return len(p), nil
}

// findNode prefers the Node that "make setup" brings where the system's is too
// old for the issuer.
func findNode() (string, error) {
	own, err := filepath.Glob(filepath.Join(".node", "node_modules", "node-linux-*", "bin", "node"))
	if err != nil {
		return "", err
	}
	if len(own) > 0 {
		return filepath.Abs(own[0])
	}
	return exec.LookPath("node")
}

func (i *issuer) ask(ctx context.Context, method, path string) (issuerStats, error) {
	var s issuerStats
	req, err := http.NewRequestWithContext(ctx, method, i.control+path, nil)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("issuer control %s %s: %s", method, path, resp.Status)
	}
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// stats reports what happened at the issuer since the last reset.
func (i *issuer) stats(t *testing.T) issuerStats {
	t.Helper()
	s, err := i.ask(t.Context(), http.MethodGet, "/stats")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reset sets the counters to zero. What was issued stays on the list: an old
// token must not turn up either.
func (i *issuer) reset(t *testing.T) {
	t.Helper()
	if _, err := i.ask(t.Context(), http.MethodPost, "/reset"); err != nil {
		t.Fatal(err)
	}
}

// A process is a child whose output is kept and which ends with the tests.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   logBuffer
	stdin io.Closer
	done  chan struct{} // closed once it has ended
}

// startProcess starts cmd with its stderr going to the log; stdout too, unless
// somebody took it already.
func startProcess(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	cmd.Stderr = &p.log
	if cmd.Stdout == nil {
		cmd.Stdout = &p.log
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop asks the process to end, and insists after a while.
func (p *process) stop() error {
	if p.stdin != nil {
		p.stdin.Close()
	}
	p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
		return nil
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
		return errors.New(p.name + " did not stop when asked")
	}
}

// A logBuffer is a bytes.Buffer for a writer and readers in different
// goroutines.
type logBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}

func (b *logBuffer) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.buf)
}
