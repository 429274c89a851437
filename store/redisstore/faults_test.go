package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// patience is what bff gives a call of its store, shortened.
const patience = 500 * time.Millisecond

// slack is what a busy machine may add to a bound. With it, patience is still
// less than the client's own time limit of 5 s.
const slack = 4 * time.Second

// A call is one of the methods of a store, with a key of its own.
type call struct {
	name string
	do   func(ctx context.Context, s *redisstore.Store) error
}

// calls are all of them. Each has an error if the store can't tell.
var calls = []call{
	{"Load", func(ctx context.Context, s *redisstore.Store) error {
		_, _, _, _, err := s.Load(ctx, "sfault")
		return err
	}},
	{"Create", func(ctx context.Context, s *redisstore.Store) error {
		_, err := s.Create(ctx, "sfault", []byte("value"), far, far)
		return err
	}},
	{"Replace", func(ctx context.Context, s *redisstore.Store) error {
		_, _, err := s.Replace(ctx, "sfault", 1, []byte("value"))
		return err
	}},
	{"Touch", func(ctx context.Context, s *redisstore.Store) error {
		_, err := s.Touch(ctx, "sfault", far)
		return err
	}},
	{"End", func(ctx context.Context, s *redisstore.Store) error {
		_, err := s.End(ctx, "sfault", 1, []byte("mark"), far)
		return err
	}},
	{"Tag", func(ctx context.Context, s *redisstore.Store) error {
		return s.Tag(ctx, "tfault", "sfault", []byte("note"), far)
	}},
	{"Tagged", func(ctx context.Context, s *redisstore.Store) error {
		_, err := s.Tagged(ctx, "tfault")
		return err
	}},
	{"Untag", func(ctx context.Context, s *redisstore.Store) error {
		return s.Untag(ctx, "tfault", "sfault")
	}},
	{"Ended", func(ctx context.Context, s *redisstore.Store) error {
		_, _, err := s.Ended(ctx, time.Now())
		return err
	}},
	{"Since", func(ctx context.Context, s *redisstore.Store) error {
		_, err := s.Since(ctx)
		return err
	}},
}

// allFail checks that every call is an error, within its context's bound.
func allFail(t *testing.T, s *redisstore.Store, says string, except ...string) {
	t.Helper()
	var wg sync.WaitGroup
	for _, c := range calls {
		wg.Go(func() {
			start := time.Now()
			err := c.do(within(t, patience), s)
			if took := time.Since(start); took > patience+slack {
				t.Errorf("%s took %v, and had %v", c.name, took, patience)
			}
			for _, name := range except {
				if name == c.name {
					if err != nil {
						t.Errorf("%s = %v; want none", c.name, err)
					}
					return
				}
			}
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s = %v; want an error that says %q", c.name, err, says)
			}
			for _, secret := range []string{"fault", "value", "mark", "note"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("%s = %v, which tells %q", c.name, err, secret)
				}
			}
		})
	}
	wg.Wait()
}

// recovers waits until every call works again, and checks that it takes no
// longer than the bound.
func recovers(t *testing.T, s *redisstore.Store, bound time.Duration) {
	t.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	for _, c := range calls {
		wg.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				err := c.do(ctx, s)
				cancel()
				took := time.Since(start)
				if err == nil && took <= bound+slack {
					return
				}
				if took > bound+slack {
					t.Errorf("%s works again after %v: %v; want it within %v", c.name, took, err, bound)
					return
				}
				time.Sleep(5 * time.Millisecond) // what recovers needs the processor
			}
		})
	}
	wg.Wait()
}

// eachKind runs a test with stores on each kind of deployment, and the server
// that holds the keys of calls.
func eachKind(t *testing.T, test func(t *testing.T, s *redisstore.Store, r *testserver.Redis)) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			r := testserver.StartRedis(t, server, "appendonly yes", "appendfsync always")
			test(t, open(t, single(r), redisstore.Options{}), r)
		})
	}
}

func TestServerKilled(t *testing.T) {
	eachKind(t, func(t *testing.T, s *redisstore.Store, r *testserver.Redis) {
		create(t, s, "s1", "one")
		r.Kill()
		for range 3 {
			allFail(t, s, "")
		}
		r.Restart()
		recovers(t, s, time.Second)
		holds(t, s, "s1", "one")
	})
}

func TestServerPaused(t *testing.T) {
	eachKind(t, func(t *testing.T, s *redisstore.Store, r *testserver.Redis) {
		create(t, s, "s1", "one")
		r.Pause()
		for range 3 {
			allFail(t, s, context.DeadlineExceeded.Error())
		}
		// Far more than the client's queue takes, all bounded.
		var wg sync.WaitGroup
		start := time.Now()
		for range 5000 {
			wg.Go(func() {
				if _, _, _, ok, err := s.Load(within(t, patience), "s1"); ok || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Load = %v, %v; want a deadline exceeded", ok, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > patience+2*slack {
			t.Errorf("5000 calls took %v, and had %v each", took, patience)
		}
		r.Resume()
		recovers(t, s, time.Second)
		holds(t, s, "s1", "one")
	})
}

// A server that was restarted empty has no sessions, and says so.
func TestServerEmptied(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	create(t, s, "s1", "one")
	r.Kill()
	r.Restart()
	recovers(t, s, time.Second)
	gone(t, s, "s1", "")
}

// A master that became a replica refuses to write, and is not taken for one
// that found nothing.
func TestReadOnly(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	create(t, s, "s1", "one")
	other := testserver.StartRedis(t, testserver.RedisServer, "replica-read-only yes")
	r.Must("REPLICAOF", "127.0.0.1", strconv.Itoa(other.Port))
	testserver.Eventually(t, "a replica", func() error {
		if got := r.Info("master_link_status"); got != "up" {
			return errors.New(got)
		}
		return nil
	})
	allFail(t, s, "READONLY", "Load", "Tagged", "Ended")
	r.Must("REPLICAOF", "NO", "ONE")
	recovers(t, s, time.Second)
}

// A replica that lost its master and may not answer is no empty store.
func TestMasterDown(t *testing.T) {
	master := testserver.StartRedis(t, testserver.RedisServer)
	r := master.StartReplica(testserver.RedisServer, "replica-serve-stale-data no")
	s := open(t, single(r), redisstore.Options{})
	master.Kill()
	testserver.Eventually(t, "a lost master", func() error {
		if got := r.Info("master_link_status"); got != "down" {
			return errors.New(got)
		}
		return nil
	})
	for _, c := range calls {
		if err := c.do(within(t, patience), s); err == nil || !strings.Contains(err.Error(), "MASTERDOWN") && !strings.Contains(err.Error(), "READONLY") {
			t.Errorf("%s = %v; want MASTERDOWN or READONLY", c.name, err)
		}
	}
}

// A full server takes no new sessions, and does right by those that it has.
func TestFull(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			r := testserver.StartRedis(t, server, "maxmemory-policy noeviction")
			s := open(t, single(r), redisstore.Options{})
			for i := range 10 {
				create(t, s, fmt.Sprintf("s%d", i), strings.Repeat("v", 3000))
			}
			if err := s.Tag(t.Context(), "t1", "s1", nil, far); err != nil {
				t.Fatal(err)
			}
			if ok, err := s.Create(t.Context(), "stouched", []byte("one"), time.Now().Add(time.Hour), far); !ok || err != nil {
				t.Fatal(ok, err)
			}
			r.Must("CONFIG", "SET", "maxmemory", "1")
			ctx := within(t, 10*time.Second)
			if ok, err := s.Create(ctx, "snew", []byte("value"), far, far); ok || err == nil || !strings.Contains(err.Error(), "OOM") {
				t.Errorf("Create = %v, %v; want OOM", ok, err)
			}
			if err := s.Tag(ctx, "tnew", "snew", []byte("note"), far); err == nil || !strings.Contains(err.Error(), "OOM") {
				t.Errorf("Tag = %v; want OOM", err)
			}
			version := holds(t, s, "s1", strings.Repeat("v", 3000))
			if _, ok, err := s.Replace(ctx, "s1", version, []byte(strings.Repeat("w", 3000))); !ok || err != nil {
				t.Errorf("Replace = %v, %v: a rotated token would be lost", ok, err)
			}
			if ok, err := s.Touch(ctx, "stouched", far); !ok || err != nil {
				t.Errorf("Touch = %v, %v: who is active would be signed out", ok, err)
			}
			_, next, err := s.Ended(ctx, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := s.End(ctx, "s1", 0, []byte("bye"), far); !ok || err != nil {
				t.Errorf("End = %v, %v: nobody could sign out", ok, err)
			}
			gone(t, s, "s1", "bye")
			if keys, _, err := s.Ended(ctx, next); err != nil || len(keys) != 1 {
				t.Errorf("Ended = %q, %v; want the session that was ended", keys, err)
			}
			if notes, err := s.Tagged(ctx, "t1"); err != nil || len(notes) != 1 {
				t.Errorf("Tagged = %q, %v", notes, err)
			}
			if err := s.Untag(ctx, "t1", "s1"); err != nil {
				t.Errorf("Untag = %v", err)
			}
			r.Must("CONFIG", "SET", "maxmemory", "0")
			recovers(t, s, time.Second)
		})
	}
}

// A server without a connection to spare is no empty store, and who is
// connected goes on.
func TestConnectionLimit(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	connected := open(t, single(r), redisstore.Options{})
	create(t, connected, "s1", "one")
	var fill []net.Conn
	defer func() {
		for _, conn := range fill {
			conn.Close()
		}
	}()
	before := r.Must("CONFIG", "GET", "maxclients").([]any)[1].(string)
	r.Must("CONFIG", "SET", "maxclients", "8")
	for range 8 {
		conn, err := net.Dial("tcp", r.Addr)
		if err != nil {
			t.Fatal(err)
		}
		fill = append(fill, conn)
	}
	late, err := redisstore.Open(t.Context(), single(r), redisstore.Options{})
	if err != nil {
		t.Fatalf("Open at a server that is busy = %v; want a store", err)
	}
	defer late.Close()
	for _, c := range calls {
		if err := c.do(within(t, patience), late); err == nil {
			t.Errorf("%s works without a connection", c.name)
		}
	}
	for _, conn := range fill {
		conn.Close()
	}
	recovers(t, late, time.Second)
	r.Must("CONFIG", "SET", "maxclients", before)
	holds(t, connected, "s1", "one")
}

// The server may forget the scripts at any time.
func TestScriptFlush(t *testing.T) {
	eachKind(t, func(t *testing.T, s *redisstore.Store, r *testserver.Redis) {
		for range 3 {
			everything(t, open(t, single(r), redisstore.Options{Prefix: fmt.Sprintf("p%d:", time.Now().UnixNano())}))
			r.Must("SCRIPT", "FLUSH")
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				key := fmt.Sprintf("s%d", i)
				create(t, s, key, "one")
				version := holds(t, s, key, "one")
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					next, ok, err := s.Replace(t.Context(), key, version, []byte("one"))
					if !ok || err != nil {
						t.Errorf("Replace = %v, %v", ok, err)
						return
					}
					version = next
				}
			})
		}
		for range 50 {
			r.Must("SCRIPT", "FLUSH")
		}
		close(stop)
		wg.Wait()
	})
}

// A proxy passes bytes on to a server, until its answers are swallowed: then it
// closes the connection instead.
type proxy struct {
	addr    string
	swallow atomic.Bool
	dropped atomic.Int64
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			mu.Lock()
			open = append(open, client, server)
			mu.Unlock()
			wg.Go(func() {
				defer server.Close()
				io.Copy(server, client)
			})
			wg.Go(func() {
				defer client.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := server.Read(buf)
					if err != nil {
						return
					}
					if p.swallow.Load() {
						p.dropped.Add(1)
						return
					}
					if _, err := client.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return p
}

// A write whose answer got lost may have been done. It is not sent again, and
// the caller hears of it.
func TestWritesAreNotRepeated(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	direct := open(t, single(r), redisstore.Options{})
	p := startProxy(t, r.Addr)
	s := open(t, "redis://"+p.addr, redisstore.Options{})
	create(t, direct, "s1", "one")
	version := holds(t, s, "s1", "one")
	if ok, err := s.Touch(t.Context(), "s1", far); !ok || err != nil { // the scripts are known
		t.Fatal(ok, err)
	}
	count := func(command string) int {
		n, _, _ := strings.Cut(strings.TrimPrefix(r.Info("cmdstat_"+command), "calls="), ",")
		calls, _ := strconv.Atoi(n)
		return calls
	}
	keys := 0
	for _, c := range []struct {
		command string
		do      func() (bool, error)
	}{
		{"set", func() (bool, error) {
			keys++
			return s.Create(within(t, patience), fmt.Sprintf("snew%d", keys), []byte("value"), far, far)
		}},
		{"evalsha", func() (bool, error) { return s.Touch(within(t, patience), "s1", far) }},
	} {
		// Nothing is sent on a connection that is broken already, nor on one
		// that can't be made because the answer to its greeting gets lost.
		for sent, tries := 0, 0; sent == 0; tries++ {
			if tries == 100 {
				t.Fatalf("%s was not sent in %d tries", c.command, tries)
			}
			for range 10 { // the client has several connections
				holds(t, s, "s1", "one")
			}
			before := count(c.command)
			p.swallow.Store(true)
			ok, err := c.do()
			p.swallow.Store(false)
			if ok || err == nil {
				t.Fatalf("%s whose answer got lost = %v, %v; want an error", c.command, ok, err)
			}
			if sent = count(c.command) - before; sent > 1 {
				t.Errorf("%s was sent %d times", c.command, sent)
			}
		}
	}
	if p.dropped.Load() == 0 {
		t.Fatal("no answer got lost")
	}
	// A read is repeated, on a new connection if need be.
	if got := holds(t, s, "s1", "one"); got != version {
		t.Errorf("version %d, want %d", got, version)
	}
	holds(t, direct, fmt.Sprintf("snew%d", keys), "value")
}

// What was written waits for a replica, and no longer than was said.
func TestReplicaWait(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			r := testserver.StartRedis(t, server)
			waits := func() int {
				n, _, _ := strings.Cut(strings.TrimPrefix(r.Info("cmdstat_wait"), "calls="), ",")
				calls, _ := strconv.Atoi(n)
				return calls
			}
			s := open(t, single(r), redisstore.Options{ReplicaWait: 200 * time.Millisecond})
			write := func() {
				t.Helper()
				key := fmt.Sprintf("s%d", time.Now().UnixNano())
				create(t, s, key, "one")
				if _, ok, err := s.Replace(t.Context(), key, holds(t, s, key, "one"), []byte("two")); !ok || err != nil {
					t.Fatal(ok, err)
				}
				if ok, err := s.End(t.Context(), key, 0, []byte("bye"), far); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			write()
			if got := waits(); got != 0 {
				t.Errorf("without a replica there were %d WAITs", got)
			}
			replica := r.StartReplica(server)
			write()
			if got := waits(); got != 2 {
				t.Errorf("with a replica there were %d WAITs for Replace and End, want 2", got)
			}
			replica.Pause()
			start := time.Now()
			write()
			if took := time.Since(start); took < 400*time.Millisecond || took > 400*time.Millisecond+slack {
				t.Errorf("with a replica that is silent, Replace and End took %v; want 200 ms each", took)
			}
			replica.Resume()
			off := open(t, single(r), redisstore.Options{ReplicaWait: -1})
			before := waits()
			create(t, off, "soff", "one")
			if ok, err := off.End(t.Context(), "soff", 0, []byte("bye"), far); !ok || err != nil || waits() != before {
				t.Errorf("with ReplicaWait off: %v, %v, %d WAITs more", ok, err, waits()-before)
			}
		})
	}
}

// A server that is still reading its data is no empty store.
func TestLoading(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer,
		"key-load-delay 50000", "loading-process-events-interval-bytes 1024", "rdbcompression no") // microseconds
	s := open(t, single(r), redisstore.Options{})
	for i := range 300 {
		create(t, s, fmt.Sprintf("s%d", i), strings.Repeat("v", 2000))
	}
	r.Must("SAVE")
	r.Kill()
	r.RestartUnready()
	testserver.Eventually(t, "loading", func() error {
		if _, err := r.Do("PING"); err == nil || !strings.HasPrefix(err.Error(), "LOADING") {
			return fmt.Errorf("PING: %v", err)
		}
		return nil
	})
	for _, c := range calls {
		if err := c.do(within(t, patience), s); err == nil || !strings.Contains(err.Error(), "LOADING") {
			t.Errorf("%s = %v; want LOADING", c.name, err)
		}
	}
	r.Must("CONFIG", "SET", "key-load-delay", "0")
	r.AwaitReady()
	recovers(t, s, time.Second)
	holds(t, s, "s299", strings.Repeat("v", 2000))
}

// Whatever happened, nothing runs on when a store is closed.
func TestNothingIsLeft(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	before := runtime.NumGoroutine()
	s, err := redisstore.Open(t.Context(), single(r), redisstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	watching := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { watching <- s.Watch(ctx, every, func(string) {}, func(time.Time) {}) }()
	create(t, s, "s1", "one")
	r.Pause()
	allFail(t, s, "")
	r.Resume()
	recovers(t, s, time.Second)
	r.Kill()
	allFail(t, s, "")
	r.Restart()
	recovers(t, s, time.Second)
	r.Pause()
	allFail(t, s, "")
	s.Close()
	cancel()
	<-watching
	testserver.Eventually(t, "quiet", func() error {
		if n := runtime.NumGoroutine(); n > before {
			buf := make([]byte, 64<<10)
			return fmt.Errorf("%d goroutines, and there were %d\n%s", n, before, buf[:runtime.Stack(buf, true)])
		}
		return nil
	})
	r.Resume()
}
