package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// A watcher notes what one call of Watch reports.
type watcher struct {
	t      *testing.T
	cancel context.CancelFunc
	err    error
	done   chan struct{} // closed when it returned, with err

	mu     sync.Mutex
	keys   []string
	upTo   time.Time
	synced int
	news   chan struct{} // closed at the next report
}

const every = 200 * time.Millisecond

// watch watches, and returns when that has begun.
func watch(t *testing.T, s *redisstore.Store) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{t: t, cancel: cancel, done: make(chan struct{}), news: make(chan struct{})}
	note := func(f func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		f()
		close(w.news)
		w.news = make(chan struct{})
	}
	go func() {
		defer close(w.done)
		w.err = s.Watch(ctx, every,
			func(key string) { note(func() { w.keys = append(w.keys, key) }) },
			func(upTo time.Time) { note(func() { w.upTo, w.synced = upTo, w.synced+1 }) })
	}()
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
	w.until("the first synced", func() bool { return w.synced > 0 })
	return w
}

// until waits for something that is reported.
func (w *watcher) until(what string, condition func() bool) {
	w.t.Helper()
	timeout := time.After(time.Minute)
	for {
		w.mu.Lock()
		ok, news := condition(), w.news
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-w.done:
			w.t.Fatalf("waiting for %s: Watch = %v", what, w.err)
		case <-timeout:
			w.t.Fatalf("no %s within a minute", what)
		}
	}
}

// reports waits until Watch has reported key, and that all before now is.
func (w *watcher) reports(key string) {
	w.t.Helper()
	now := time.Now()
	w.until("proof for "+key, func() bool { return w.upTo.After(now) })
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.keys, key) {
		w.t.Fatalf("Watch says that all is reported, and %q is not among %q", key, w.keys)
	}
	w.keys = nil
}

// ends waits until Watch returns, with ErrLost.
func (w *watcher) ends() error {
	w.t.Helper()
	select {
	case <-w.done:
	case <-time.After(time.Minute):
		w.t.Fatal("Watch goes on")
	}
	if !errors.Is(w.err, redisstore.ErrLost) || w.t.Context().Err() != nil {
		w.t.Fatalf("Watch = %v, want ErrLost", w.err)
	}
	return w.err
}

// change replaces and then ends a record, and wants both reported.
func change(t *testing.T, w *watcher, s *redisstore.Store, key string) {
	t.Helper()
	create(t, s, key, "one")
	w.reports(key)
	if _, ok, err := s.Replace(t.Context(), key, holds(t, s, key, "one"), []byte("two")); !ok || err != nil {
		t.Fatal(ok, err)
	}
	w.reports(key)
	if ok, err := s.End(t.Context(), key, 0, []byte("bye"), far); !ok || err != nil {
		t.Fatal(ok, err)
	}
	w.reports(key)
}

func TestWatch(t *testing.T) {
	test := func(t *testing.T, url string) {
		w := watch(t, open(t, url, redisstore.Options{}))
		other := open(t, url, redisstore.Options{})
		for i := range 5 {
			change(t, w, other, fmt.Sprintf("s%d", i))
		}
		// Only sessions are reported.
		if ok, err := other.Create(t.Context(), "aspent", nil, far, far); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := other.Tag(t.Context(), "t1", "s1", nil, far); err != nil {
			t.Fatal(err)
		}
		create(t, other, "slast", "one")
		w.until("report of slast", func() bool { return slices.Contains(w.keys, "slast") })
		w.mu.Lock()
		if len(w.keys) != 1 {
			t.Errorf("Watch reports %q, want slast alone", w.keys)
		}
		w.mu.Unlock()
		w.cancel()
		<-w.done
		if w.err != nil {
			t.Errorf("Watch = %v when its context ends; want nil", w.err)
		}
	}
	for _, server := range servers {
		t.Run(server, func(t *testing.T) { test(t, single(testserver.StartRedis(t, server))) })
	}
	t.Run("cluster", func(t *testing.T) {
		test(t, clustered(testserver.StartCluster(t, testserver.RedisServer, 3, true)))
	})
	t.Run("sentinel", func(t *testing.T) { test(t, watched(testserver.StartSentinel(t, testserver.RedisServer))) })
}

// The application's client may track keys for itself, in another mode.
func TestWatchWithTheApplicationsClient(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	for name, option := range map[string]rueidis.ClientOption{
		"opt-in":   {},
		"no-cache": {DisableCache: true},
	} {
		t.Run(name, func(t *testing.T) {
			option.InitAddress = []string{r.Addr}
			client, err := rueidis.NewClient(option)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			s, err := redisstore.New(client, redisstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			w := watch(t, s)
			change(t, w, s, "s"+name)
			w.cancel()
			<-w.done
		})
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.Addr}, AlwaysRESP2: true, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := redisstore.New(client, redisstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Watch(t.Context(), every, func(string) {}, func(time.Time) { t.Error("synced without RESP3") })
	if err == nil || !strings.Contains(err.Error(), "RESP3") {
		t.Errorf("Watch with RESP2 = %v; want an error that says so", err)
	}
}

// What makes reports uncertain ends Watch, and it can begin anew.
func TestWatchIsLost(t *testing.T) {
	for _, test := range []struct {
		name    string
		upset   func(t *testing.T, r *testserver.Redis)
		restore func(t *testing.T, r *testserver.Redis)
	}{
		{"killed", func(t *testing.T, r *testserver.Redis) { r.Kill() }, func(t *testing.T, r *testserver.Redis) { r.Restart() }},
		{"silent", func(t *testing.T, r *testserver.Redis) { r.Pause() }, func(t *testing.T, r *testserver.Redis) { r.Resume() }},
		{"disconnected", func(t *testing.T, r *testserver.Redis) { r.Must("CLIENT", "KILL", "TYPE", "normal") }, nil},
		{"emptied", func(t *testing.T, r *testserver.Redis) { r.Must("FLUSHALL") }, nil},
		{"demoted",
			func(t *testing.T, r *testserver.Redis) { r.Must("REPLICAOF", "127.0.0.1", "1") },
			func(t *testing.T, r *testserver.Redis) { r.Must("REPLICAOF", "NO", "ONE") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := testserver.StartRedis(t, testserver.RedisServer)
			s := open(t, single(r), redisstore.Options{})
			w := watch(t, s)
			change(t, w, s, "s1")
			test.upset(t, r)
			w.ends()
			if test.restore != nil {
				if err := s.Watch(within(t, 10*time.Second), every, func(string) {}, func(time.Time) { t.Error("synced without a master") }); !errors.Is(err, redisstore.ErrLost) {
					t.Errorf("Watch = %v; want ErrLost", err)
				}
				test.restore(t, r)
			}
			testserver.Eventually(t, "the store", func() error {
				_, _, _, _, err := s.Load(within(t, patience), "s1")
				return err
			})
			change(t, watchAgain(t, s), s, "s2")
		})
	}
}

// While a master is silent nothing is proved, and if it comes back in time,
// nothing was lost.
func TestWatchHalfOpen(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	w := watch(t, s)
	r.Pause()
	paused := time.Now()
	<-w.done // after a second and the interval
	w.mu.Lock()
	if w.upTo.After(paused) {
		t.Errorf("synced up to %v after the server was paused", w.upTo.Sub(paused))
	}
	w.mu.Unlock()
	w.ends()
	r.Resume()
}

func TestWatchClusterFailover(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := testserver.StartCluster(t, testserver.RedisServer, 3, true)
	s := open(t, clustered(c), redisstore.Options{})
	w := watch(t, s)
	change(t, w, s, "s1")
	// One takes over in good order: nobody loses a connection.
	c.Replicas[0].Must("CLUSTER", "FAILOVER")
	w.ends()
	change(t, watchAgain(t, s), s, "s2")
}

// watchAgain watches, as soon as that is possible.
func watchAgain(t *testing.T, s *redisstore.Store) *watcher {
	t.Helper()
	testserver.Eventually(t, "proof", func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return s.Watch(ctx, every, func(string) {}, func(time.Time) { cancel() })
	})
	return watch(t, s)
}

// While a slot moves nobody says that all is reported.
func TestWatchResharding(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false)
	s := open(t, clustered(c), redisstore.Options{})
	w := watch(t, s)
	change(t, w, s, "s1")
	from := c.Owner("bff:s1")
	to := c.Masters[0]
	if from == to {
		to = c.Masters[1]
	}
	slot := strconv.FormatInt(from.Must("CLUSTER", "KEYSLOT", "bff:s1").(int64), 10)
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", from.ID())
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", to.ID())
	if err := w.ends(); !strings.Contains(err.Error(), "slot is moving") {
		t.Errorf("Watch = %v; want an error that says why", err)
	}
	from.Must("CLUSTER", "SETSLOT", slot, "STABLE")
	to.Must("CLUSTER", "SETSLOT", slot, "STABLE")
	change(t, watchAgain(t, s), s, "s2")
	w = watch(t, s)
	c.MoveSlot("bff:s1")
	w.ends()
}

func TestWatchSentinelFailover(t *testing.T) {
	t.Parallel() // it waits most of the time
	sentinel := testserver.StartSentinel(t, testserver.RedisServer)
	s := open(t, watched(sentinel), redisstore.Options{})
	w := watch(t, s)
	change(t, w, s, "s1")
	old := sentinel.Master()
	sentinel.Sentinels[0].Must("SENTINEL", "FAILOVER", sentinel.Name)
	w.ends()
	sentinel.AwaitFailover(old)
	testserver.Eventually(t, "the store", func() error {
		_, err := s.Create(within(t, patience), fmt.Sprintf("s%d", time.Now().UnixNano()), nil, far, far)
		return err
	})
	change(t, watchAgain(t, s), s, "s2")
}

// A watcher that takes too long is told that it missed something.
func TestWatchTooSlow(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	began, stop := make(chan struct{}, 1), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(t.Context(), every,
			func(string) { <-stop },
			func(time.Time) {
				select {
				case began <- struct{}{}:
				default:
				}
			})
	}()
	<-began
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i < 70_000; i += 32 {
				if ok, err := s.Create(t.Context(), fmt.Sprintf("s%d", i), nil, far, far); !ok || err != nil {
					t.Error(ok, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	if err := <-done; !errors.Is(err, redisstore.ErrLost) {
		t.Errorf("Watch = %v, want ErrLost", err)
	}
}

func TestWatchNever(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	for _, every := range []time.Duration{0, -1} {
		if err := s.Watch(t.Context(), every, func(string) {}, func(time.Time) {}); err == nil {
			t.Errorf("Watch every %v succeeds", every)
		}
	}
}
