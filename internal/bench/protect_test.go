package bench

import (
	"context"
	"encoding/gob"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/store/memstore"
	"github.com/alexedwards/scs/v2"
	scsmem "github.com/alexedwards/scs/v2/memstore"
)

// A member is what an application keeps in scs to do what a session of ours
// does.
type member struct {
	Subject, Email                     string
	Groups                             []string
	AccessToken, RefreshToken, IDToken string
	Expiry                             time.Time
}

func init() { gob.Register(member{}) }

func noContent(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

// bySession answers a request whose session it found.
func bySession(w http.ResponseWriter, r *http.Request) {
	if s, ok := bff.SessionFromContext(r.Context()); ok && s.Subject() != "" {
		w.WriteHeader(http.StatusNoContent)
	}
}

// newSCS returns scs over its own memory store, as its documentation sets it
// up: no idle time-out, with which scs writes on every request, and here
// without the clean-up, which would stop everything now and then.
func newSCS() (*scs.SessionManager, *scsmem.MemStore) {
	store := scsmem.NewWithCleanupInterval(0)
	m := scs.New()
	m.Lifetime = 12 * time.Hour
	m.Store = store
	return m, store
}

// withMember answers a request whose member it found.
func withMember(m *scs.SessionManager) http.Handler {
	return m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, ok := m.Get(r.Context(), "member").(member); ok && u.Subject != "" {
			w.WriteHeader(http.StatusNoContent)
		}
	}))
}

// fillSCS puts n sessions into m's store and returns the Cookie headers of as
// many as fill does.
func fillSCS(b *testing.B, m *scs.SessionManager, size, n int) (cookies []string) {
	b.Helper()
	u := memberOf(b, size)
	for i := range n {
		ctx, err := m.Load(context.Background(), "")
		if err != nil {
			b.Fatal(err)
		}
		m.Put(ctx, "member", u)
		token, _, err := m.Commit(ctx)
		if err != nil {
			b.Fatal(err)
		}
		if spread(i, n) {
			cookies = append(cookies, m.Cookie.Name+"="+token)
		}
	}
	return inLine(cookies)
}

var populations = []struct{ token, sessions int }{{1, 1000}, {1, 1000000}, {16, 1000}}

// BenchmarkProtect is one request with a live session, from the handler's
// outermost layer to the answer, without a socket.
func BenchmarkProtect(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		serve(b, http.HandlerFunc(noContent), []string{"a=b"}, http.StatusNoContent)
	})
	for _, p := range populations {
		name := fmt.Sprintf("token=%dKB/sessions=%d", p.token, p.sessions)
		b.Run("bff/"+name, func(b *testing.B) {
			t := signedIn(b, p.token<<10)
			store := memstore.New(memstore.Options{})
			cookies := t.fill(b, store, p.sessions)
			serve(b, newBFF(b, t.iss, store).ProtectFunc(bySession), cookies, http.StatusNoContent)
			runtime.KeepAlive(store)
		})
		b.Run("scs/"+name, func(b *testing.B) {
			m, _ := newSCS()
			cookies := fillSCS(b, m, p.token<<10, p.sessions)
			serve(b, withMember(m), cookies, http.StatusNoContent)
			runtime.KeepAlive(m)
		})
	}
}

// A counter counts what reaches a store.
type counter struct {
	*memstore.Store
	loads atomic.Int64
}

func (s *counter) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	s.loads.Add(1)
	return s.Store.Load(ctx, key)
}

// BenchmarkForged is a request with a cookie that was made up: right in form,
// wrong in its MAC. It must not reach the store.
func BenchmarkForged(b *testing.B) {
	forge := func(cookie string) string {
		name, value, _ := strings.Cut(cookie, "=")
		c := value[60]
		if c == 'A' {
			c = 'B'
		} else {
			c = 'A'
		}
		return name + "=" + value[:60] + string(c) + value[61:]
	}
	b.Run("bff", func(b *testing.B) {
		t := signedIn(b, 1<<10)
		store := &counter{Store: memstore.New(memstore.Options{})}
		cookies := t.fill(b, store, 1000)
		serve(b, newBFF(b, t.iss, store).ProtectFunc(bySession), []string{forge(cookies[0])}, http.StatusUnauthorized)
		if n := store.loads.Load(); n != 0 {
			b.Fatalf("%d forged cookies reached the store", n)
		}
	})
	b.Run("scs", func(b *testing.B) { // whose tokens are looked up to be known
		m, _ := newSCS()
		fillSCS(b, m, 1<<10, 1000)
		serve(b, withMember(m), []string{m.Cookie.Name + "=" + random()}, 0)
	})
}

// BenchmarkMemory is 100,000 sessions; only the bytes per session count. The
// payload is the record's value; what scs stores is a gob of the same tokens.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	t := signedIn(b, 1<<10)
	b.Run("bff", func(b *testing.B) {
		for b.Loop() {
			before := heap()
			store := memstore.New(memstore.Options{})
			t.fill(b, store, n)
			b.ReportMetric(float64(heap()-before)/n, "heap-B/session")
			runtime.KeepAlive(store)
		}
		b.ReportMetric(float64(t.size), "value-B/session")
	})
	b.Run("scs", func(b *testing.B) {
		m, store := newSCS()
		fillSCS(b, m, 1<<10, 1)
		all, err := store.All()
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			before := heap()
			m, _ := newSCS()
			fillSCS(b, m, 1<<10, n)
			b.ReportMetric(float64(heap()-before)/n, "heap-B/session")
			runtime.KeepAlive(m)
		}
		for _, v := range all {
			b.ReportMetric(float64(len(v)), "value-B/session")
		}
	})
}

// heap returns the bytes of live objects.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what sync.Pool held until now
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
