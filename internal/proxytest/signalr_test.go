package proxytest

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff"
)

// SignalR: its own client, from npm, over each of its transports, to a hub
// that wants a bearer token and neither the page's cookie nor its token.
func TestSignalR(t *testing.T) {
	if _, err := os.Stat("signalr/node_modules/@microsoft/signalr"); err != nil {
		t.Fatal("SignalR's client is missing; from the root of the repository: make setup")
	}
	for _, transport := range []string{"WebSockets", "ServerSentEvents", "LongPolling"} {
		t.Run(transport, func(t *testing.T) {
			h := &hub{conns: map[string]*hubConn{}}
			up := httptest.NewServer(h)
			defer up.Close()
			g := newGateway(t, false, bff.Upstream{URL: up.URL + "/messaging", Path: "/hub", StripPrefix: "/hub", WebSocket: true})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			client := exec.CommandContext(ctx, "node", "client.mjs", g.URL+"/hub?access_token=from-the-browser&x=1", g.cookie, appURL, transport)
			client.Dir = "signalr"
			var out, complaints bytes.Buffer
			client.Stdout, client.Stderr = &out, &complaints
			err := client.Run()
			const want = `{"received":["one","two"],"streamed":[0,1,2,3,4],"echo":["H` + "\u00c9" + `LLO",100006],"failure":"no method Fail"}`
			if got := strings.TrimSpace(out.String()); err != nil || got != want {
				t.Errorf("the client saw %s, %v; want %s\n%s", got, err, want, &complaints)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.wrong) > 0 {
				t.Errorf("the hub: %q", h.wrong)
			}
			if !slices.Contains(h.used, transport) {
				t.Errorf("the client used %q", h.used)
			}
		})
	}
}
