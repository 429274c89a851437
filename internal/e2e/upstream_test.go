package e2e

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A call is one request that reached the upstream.
type call struct {
	method string
	path   string
	header http.Header
	body   string
	status int
	token  string // a short digest: which access tokens came, not what they are
}

// An upstream is the API behind the gateway. It takes nobody's word: every
// bearer token is shown to the issuer's userinfo endpoint.
type upstream struct {
	origin string
	server *http.Server
	issuer string
	client *http.Client

	mu    sync.Mutex
	calls []call
}

func newUpstream(issuer string, client *http.Client) (*upstream, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{origin: "http://" + ln.Addr().String(), issuer: issuer, client: client}
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: 10 * time.Second}
	go u.server.Serve(ln)
	return u, nil
}

func (u *upstream) close() { u.server.Close() }

func (u *upstream) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.calls)
}

func (u *upstream) since(n int) []call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.calls[n:])
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	c := call{method: r.Method, path: r.URL.RequestURI(), header: r.Header.Clone(), body: string(body)}
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	c.token = digest(token)
	c.status = http.StatusUnauthorized
	var user map[string]any
	if bearer {
		user, err = u.userinfo(r, token)
		switch {
		case err != nil:
			c.status = http.StatusBadGateway
		case user != nil:
			c.status = http.StatusOK
		}
	}
	u.mu.Lock()
	u.calls = append(u.calls, c)
	u.mu.Unlock()

	// What a careless API says, and the gateway must not pass on.
	w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	w.Header().Set("Access-Control-Allow-Credentials", "true")
	w.Header().Add("Set-Cookie", "__Host-Http-bff=from-upstream; Path=/; Secure; HttpOnly")
	w.Header().Add("Set-Cookie", "bff=from-upstream; Path=/")
	if c.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	if c.status == http.StatusOK && strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		echoWebSocket(w, r.Header.Get("Sec-WebSocket-Key"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(c.status)
	json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method,
		"path":   r.URL.RequestURI(),
		"sub":    user["sub"],
		"token":  c.token,
		"cookie": r.Header.Get("Cookie") != "",
	})
}

// userinfo asks the issuer whose token this is: nil for nobody's.
func (u *upstream) userinfo(r *http.Request, token string) (map[string]any, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, u.issuer+"/me", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		var user map[string]any
		return user, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&user)
	case http.StatusUnauthorized:
		return nil, nil
	default:
		return nil, fmt.Errorf("userinfo: %s", resp.Status)
	}
}

// echoWebSocket says everything back on a WebSocket until the other side closes
// it (RFC 6455). It takes short frames only.
func echoWebSocket(w http.ResponseWriter, key string) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	for rw.Flush() == nil {
		var head [6]byte // the last four are the mask
		if _, err := io.ReadFull(rw, head[:]); err != nil {
			return
		}
		op, size := head[0]&0xf, int(head[1]&0x7f)
		if size > 125 {
			return
		}
		text := make([]byte, size)
		if _, err := io.ReadFull(rw, text); err != nil {
			return
		}
		for i := range text {
			text[i] ^= head[2+i%4]
		}
		rw.Write(append([]byte{head[0], byte(size)}, text...))
		if op == 8 { // close
			rw.Flush()
			return
		}
	}
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}
