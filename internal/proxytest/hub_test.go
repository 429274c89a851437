package proxytest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A hub is a server that speaks SignalR's JSON protocol over its three
// transports, as much of it as a client needs to be content:
// https://github.com/dotnet/aspnetcore/tree/main/src/SignalR/docs/specs
type hub struct {
	mu    sync.Mutex
	conns map[string]*hubConn
	wrong []string // about requests that should not have arrived so
	used  []string // transports
}

// A hubConn is one client. What it is sent waits in out.
type hubConn struct {
	out chan string
	in  *io.PipeWriter
}

const end = "\x1e" // of a record

func (h *hub) complain(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !hasToken(r.Header["Authorization"]) || r.Header.Get("Cookie") != "" {
		h.complain("%s %s has Authorization %.20q, Cookie %q", r.Method, r.URL.Path, r.Header["Authorization"], r.Header.Get("Cookie"))
		http.Error(w, "no token, or too much", http.StatusUnauthorized)
		return
	}
	if strings.Contains(strings.ToLower(r.URL.RawQuery), "token=") {
		h.complain("%s %s has the query %q", r.Method, r.URL.Path, r.URL.RawQuery)
	}
	if strings.HasSuffix(r.URL.Path, "/negotiate") {
		h.negotiate(w)
		return
	}
	h.mu.Lock()
	c := h.conns[r.URL.Query().Get("id")]
	h.mu.Unlock()
	switch {
	case c == nil:
		http.Error(w, "no such connection", http.StatusNotFound)
	case r.Header.Get("Upgrade") != "":
		h.use("WebSockets")
		h.serveWebSocket(w, r, c)
	case r.Method == http.MethodPost:
		io.Copy(c.in, r.Body)
	case r.Method == http.MethodDelete:
		c.in.Close()
		w.WriteHeader(http.StatusAccepted)
	case r.Header.Get("Accept") == "text/event-stream":
		h.use("ServerSentEvents")
		h.serveEvents(w, r, c)
	default:
		h.use("LongPolling")
		h.servePoll(w, r, c)
	}
}

func (h *hub) use(transport string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used = append(h.used, transport)
}

func (h *hub) negotiate(w http.ResponseWriter) {
	pr, pw := io.Pipe()
	id, c := rand.Text(), &hubConn{make(chan string, 64), pw}
	h.mu.Lock()
	h.conns[id] = c
	h.mu.Unlock()
	go h.talk(pr, c)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"negotiateVersion": 1, "connectionId": rand.Text(), "connectionToken": id, "availableTransports": []any{
		map[string]any{"transport": "WebSockets", "transferFormats": []string{"Text", "Binary"}},
		map[string]any{"transport": "ServerSentEvents", "transferFormats": []string{"Text"}},
		map[string]any{"transport": "LongPolling", "transferFormats": []string{"Text", "Binary"}},
	}})
}

// talk reads records from a client and answers them, until it is closed.
func (h *hub) talk(r *io.PipeReader, c *hubConn) {
	defer close(c.out)
	defer r.Close()
	send := func(v map[string]any) {
		b, _ := json.Marshal(v)
		c.out <- string(b) + end
	}
	for br, first := bufio.NewReader(r), true; ; first = false {
		record, err := br.ReadString(end[0])
		if err != nil {
			return
		}
		var m struct {
			Type         int
			Target       string
			InvocationID string `json:"invocationId"`
			Arguments    []any
			Protocol     string
		}
		if err := json.Unmarshal([]byte(strings.TrimSuffix(record, end)), &m); err != nil {
			h.complain("record %.100q: %v", record, err)
			return
		}
		switch {
		case first && m.Protocol == "json":
			send(map[string]any{})
		case m.Type == 1 && m.Target == "Echo":
			send(map[string]any{"type": 3, "invocationId": m.InvocationID, "result": strings.ToUpper(m.Arguments[0].(string))})
		case m.Type == 1 && m.Target == "Broadcast":
			send(map[string]any{"type": 1, "target": "received", "arguments": m.Arguments})
		case m.Type == 4 && m.Target == "Count":
			for i := range int(m.Arguments[0].(float64)) {
				send(map[string]any{"type": 2, "invocationId": m.InvocationID, "item": i})
			}
			send(map[string]any{"type": 3, "invocationId": m.InvocationID})
		case m.Type == 1:
			send(map[string]any{"type": 3, "invocationId": m.InvocationID, "error": "no method " + m.Target})
		case m.Type == 6:
			send(map[string]any{"type": 6})
		case m.Type == 7:
			return
		}
	}
}

func (h *hub) serveWebSocket(w http.ResponseWriter, r *http.Request, c *hubConn) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: []string{"app.example.com"}})
	if err != nil {
		h.complain("WebSocket: %v", err)
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	go func() {
		defer c.in.Close()
		for {
			_, message, err := ws.Read(ctx)
			if err != nil {
				return
			}
			c.in.Write(message)
		}
	}()
	for record := range c.out {
		if err := ws.Write(ctx, websocket.MessageText, []byte(record)); err != nil {
			return
		}
	}
	ws.Close(websocket.StatusNormalClosure, "")
}

func (h *hub) serveEvents(w http.ResponseWriter, r *http.Request, c *hubConn) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	io.WriteString(w, ":\r\n\r\n")
	rc.Flush()
	for {
		select {
		case record, ok := <-c.out:
			if !ok {
				return
			}
			fmt.Fprintf(w, "data: %s\r\n\r\n", record)
			rc.Flush()
		case <-r.Context().Done():
			c.in.Close()
			return
		}
	}
}

// servePoll answers with what there is, or waits for it. The first poll of a
// connection is answered at once.
func (h *hub) servePoll(w http.ResponseWriter, r *http.Request, c *hubConn) {
	h.mu.Lock()
	first := len(h.used) > 0 && h.used[len(h.used)-1] == "LongPolling" && (len(h.used) == 1 || h.used[len(h.used)-2] != "LongPolling")
	h.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if first {
		return
	}
	select {
	case record, ok := <-c.out:
		if !ok {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		io.WriteString(w, record)
	case <-r.Context().Done():
	case <-time.After(10 * time.Second):
	}
}
