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

// A counter counts the calls that ask or change something of a store's records.
type counter struct {
	*memstore.Store
	calls atomic.Int64
}

func (s *counter) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	s.calls.Add(1)
	return s.Store.Load(ctx, key)
}

func (s *counter) Replace(ctx context.Context, key string, version uint64, value []byte) (uint64, bool, error) {
	s.calls.Add(1)
	return s.Store.Replace(ctx, key, version, value)
}

func (s *counter) Touch(ctx context.Context, key string, expires time.Time) (bool, error) {
	s.calls.Add(1)
	return s.Store.Touch(ctx, key, expires)
}

// BenchmarkProtectWarm is the same with Config.CacheSize, and every session in
// the cache. No request reaches the store, so that it may be any that reports
// what changes; and nothing is opened or decoded, since that is only done with
// what the store returned.
func BenchmarkProtectWarm(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			t := signedIn(b, 1<<10)
			store := &counter{Store: memstore.New(memstore.Options{})}
			cookies := t.fill(b, store, n)
			// Not all parts of the cache get the same number of sessions.
			h := newBFF(b, t.iss, store, func(cfg *bff.Config) { cfg.CacheSize = 2 * n }).ProtectFunc(bySession)
			// An entry from before the watch began lasts for CacheMaxStale.
			for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
				visit(b, h, cookies)
			}
			before := store.calls.Load()
			serve(b, h, cookies, http.StatusNoContent)
			if calls := store.calls.Load() - before; calls != 0 {
				b.Fatalf("%d of %d requests reached the store", calls, b.N)
			}
		})
	}
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
		if n := store.calls.Load(); n != 0 {
			b.Fatalf("%d forged cookies reached the store", n)
		}
	})
	b.Run("scs", func(b *testing.B) { // whose tokens are looked up to be known
		m, _ := newSCS()
		fillSCS(b, m, 1<<10, 1000)
		serve(b, withMember(m), []string{m.Cookie.Name + "=" + random()}, 0)
	})
}

// BenchmarkMemory is many sessions in memory; only the bytes of the heap count,
// those of the values, and the difference, which has the keys in it. bff+tags
// has what finds them by subject and by the issuer's session besides. What scs
// stores is a gob of the same tokens.
func BenchmarkMemory(b *testing.B) {
	t := signedIn(b, 1<<10)
	two := func() []string { return []string{"t" + random(), "t" + random()} }
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("bff/sessions=%d", n), func(b *testing.B) {
			weigh(b, n, t.size, func() any {
				store := memstore.New(memstore.Options{})
				t.fill(b, store, n)
				return store
			})
		})
		b.Run(fmt.Sprintf("bff+tags/sessions=%d", n), func(b *testing.B) {
			weigh(b, n, t.size, func() any {
				store := memstore.New(memstore.Options{})
				t.fillUnder(b, store, n, two)
				return store
			})
		})
		b.Run(fmt.Sprintf("scs/sessions=%d", n), func(b *testing.B) {
			m, store := newSCS()
			fillSCS(b, m, 1<<10, 1)
			all, err := store.All()
			if err != nil {
				b.Fatal(err)
			}
			for _, v := range all { // the only one
				weigh(b, n, len(v), func() any {
					m, _ := newSCS()
					fillSCS(b, m, 1<<10, n)
					return m
				})
			}
		})
	}
}

// weigh reports what one of the n sessions takes that fill makes, each with a
// value of size bytes.
func weigh(b *testing.B, n, size int, fill func() any) {
	for b.Loop() {
		before := heap()
		store := fill()
		each := float64(heap()-before) / float64(n)
		b.ReportMetric(each, "heap-B/session")
		b.ReportMetric(float64(size), "value-B/session")
		b.ReportMetric(each-float64(size), "beyond-B/session")
		runtime.KeepAlive(store)
	}
}

// heap returns the bytes of live objects.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what sync.Pool held until now
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
