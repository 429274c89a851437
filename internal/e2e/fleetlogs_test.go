//go:build unix

package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
)

// An api is what the gateways proxy to. It notes which token came for whom.
type api struct {
	mu   sync.Mutex
	seen map[string]use // by token
}

type use struct {
	name string
	last time.Time
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	u := a.seen[token]
	if u.name != "" && u.name != name {
		ok = false
	}
	a.seen[token] = use{name, time.Now()}
	a.mu.Unlock()
	if !ok {
		http.Error(w, "not your token", http.StatusForbidden)
		return
	}
	io.WriteString(w, name)
}

// check compares what came with what the issuer gave, and to whom.
func (a *api) check(t *testing.T, stats issuerStats) {
	t.Helper()
	issued := map[string]bool{}
	for _, i := range stats.Issued {
		if i.Kind == "access" {
			issued[i.Value] = true
			if u, ok := a.used(i.Value); ok && i.Account != u.name {
				t.Errorf("the API got %s's token for %s", i.Account, u.name)
			} else if ok {
				if late := u.last.Sub(time.UnixMilli(i.At)); late > fleetTTL+settle {
					t.Errorf("the API got %s's token %v after it was issued", i.Account, late)
				}
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for token, u := range a.seen {
		if !issued[token] {
			t.Errorf("the API got a token for %s that the issuer never gave", u.name)
		}
	}
}

func (a *api) used(token string) (use, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u, ok := a.seen[token]
	return u, ok
}

// A storeLog tells when which session's record was written.
type storeLog interface {
	begin() // once the gateways run
	writes(t *testing.T) map[string][]time.Time
}

// A redisLog listens to Redis's own events.
type redisLog struct {
	conn net.Conn
	mu   sync.Mutex
	list map[string][]time.Time
}

func newRedisLog(t *testing.T, addr string) *redisLog {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l := &redisLog{conn: conn, list: map[string][]time.Time{}}
	if _, err := io.WriteString(conn, "SUBSCRIBE __keyevent@0__:set\r\n"); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // until the connection is closed
		defer close(done)
		in := bufio.NewScanner(conn)
		for in.Scan() {
			if key, ok := strings.CutPrefix(in.Text(), "bff:s"); ok {
				l.mu.Lock()
				l.list["s"+key] = append(l.list["s"+key], time.Now())
				l.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return l
}

func (l *redisLog) begin() {}

func (l *redisLog) writes(t *testing.T) map[string][]time.Time {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	list := map[string][]time.Time{}
	for key, times := range l.list {
		list[key] = slices.Clone(times)
	}
	return list
}

// A postgresLog has a trigger write to the server's log.
type postgresLog struct{ p *testserver.Postgres }

func (l *postgresLog) begin() {
	l.p.Exec(`CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE LOG 'wrote %', NEW.record_key; RETURN NULL; END $$`)
	l.p.Exec(`CREATE TRIGGER tell AFTER UPDATE OF version ON bff_records FOR EACH ROW EXECUTE FUNCTION tell()`)
}

var wrote = regexp.MustCompile(`(?m)^(\d+)\.(\d{3}) LOG:  wrote (s\S+)$`)

func (l *postgresLog) writes(t *testing.T) map[string][]time.Time {
	t.Helper()
	list := map[string][]time.Time{}
	for _, m := range wrote.FindAllStringSubmatch(l.p.Output(), -1) {
		ms, err := strconv.ParseInt(m[1]+m[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		list[m[3]] = append(list[m[3]], time.UnixMilli(ms))
	}
	if len(list) == 0 {
		t.Error("PostgreSQL's log tells of no write")
	}
	return list
}
