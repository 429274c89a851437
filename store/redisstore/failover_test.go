package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// When a master dies, its replica takes over: what a replica had is there, and
// the store finds it by itself.
func TestSentinelFailover(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			sentinel := testserver.StartSentinel(t, server)
			s := open(t, watched(sentinel), redisstore.Options{ReplicaWait: 10 * time.Second})
			old := sentinel.Master()
			create(t, s, "sended", "one")
			create(t, s, "srotated", "one")
			if ok, err := s.End(t.Context(), "sended", 0, []byte("bye"), far); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if _, ok, err := s.Replace(t.Context(), "srotated", holds(t, s, "srotated", "one"), []byte("two")); !ok || err != nil {
				t.Fatal(ok, err)
			}
			old.Kill()
			allFail(t, s, "")
			sentinel.AwaitFailover(old)
			recovers(t, s, time.Second)
			gone(t, s, "sended", "bye")
			holds(t, s, "srotated", "two")
			// The old master comes back as a replica, and is not asked.
			old.Restart()
			sentinel.Await()
			recovers(t, s, time.Second)
			holds(t, s, "srotated", "two")
		})
	}
}

// A master that was cut off and comes back with the old state is not believed.
func TestSentinelPausedMaster(t *testing.T) {
	t.Parallel() // it waits most of the time
	sentinel := testserver.StartSentinel(t, testserver.RedisServer)
	s := open(t, watched(sentinel), redisstore.Options{})
	old := sentinel.Master()
	create(t, s, "s1", "one")
	version := holds(t, s, "s1", "one")
	testserver.Eventually(t, "replication", func() error {
		for _, node := range sentinel.Nodes {
			if n, err := node.Do("EXISTS", "bff:s1"); err != nil || n.(int64) != 1 {
				return fmt.Errorf("%v, %v", n, err)
			}
		}
		return nil
	})
	old.Pause()
	sentinel.AwaitFailover(old)
	testserver.Eventually(t, "the store", func() error {
		_, ok, err := s.Replace(within(t, patience), "s1", version, []byte("two"))
		if err == nil && !ok {
			t.Fatal("Replace = false: the first one, whose answer was lost, went through")
		}
		return err
	})
	old.Resume()
	for range 100 {
		holds(t, s, "s1", "two")
	}
	sentinel.Await()
	holds(t, s, "s1", "two")
}

func TestClusterFailover(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			c := testserver.StartCluster(t, server, 3, true)
			s := open(t, clustered(c), redisstore.Options{ReplicaWait: 10 * time.Second})
			create(t, s, "s1", "one")
			if ok, err := s.End(t.Context(), "s1", 0, []byte("bye"), far); !ok || err != nil {
				t.Fatal(ok, err)
			}
			old := c.Owner("bff:sfault")
			old.Kill()
			testserver.Eventually(t, "the replica", func() error {
				for _, r := range c.Replicas {
					if info, err := r.Do("INFO", "replication"); err == nil && strings.Contains(info.(string), "role:master") {
						return nil
					}
				}
				return errors.New("no replica took over")
			})
			testserver.Eventually(t, "the cluster", func() error {
				for _, r := range append(c.Masters, c.Replicas...) {
					if r == old {
						continue
					}
					info, err := r.Do("CLUSTER", "INFO")
					if err != nil || !strings.Contains(info.(string), "cluster_state:ok") {
						return fmt.Errorf("%s: %v", r.Addr, err)
					}
				}
				return nil
			})
			recovers(t, s, 2*time.Second) // the client asks who took over no more than once a second
			gone(t, s, "s1", "bye")
		})
	}
}

// While slots move from one master to another, every call works.
func TestClusterResharding(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false)
	s := open(t, clustered(c), redisstore.Options{})
	const n = 50
	for i := range n {
		create(t, s, fmt.Sprintf("s%d", i), "one")
		if err := s.Tag(t.Context(), fmt.Sprintf("t%d", i), "s1", nil, far); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var done atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			versions := map[string]uint64{}
			for i := w; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("s%d", i%n/4*4+w) // each its own
				if i%n/4*4+w >= n {
					continue
				}
				value, version, _, ok, err := s.Load(within(t, time.Minute), key)
				if !ok || err != nil || versions[key] != 0 && versions[key] != version {
					t.Errorf("Load(%q) = %q, %d, %v, %v; want version %d", key, value, version, ok, err, versions[key])
					return
				}
				next, ok, err := s.Replace(within(t, time.Minute), key, version, value)
				if !ok || err != nil {
					t.Errorf("Replace(%q) = %v, %v", key, ok, err)
					return
				}
				versions[key] = next
				tag := fmt.Sprintf("t%d", i%n)
				if notes, err := s.Tagged(within(t, time.Minute), tag); err != nil || len(notes) != 1 {
					t.Errorf("Tagged(%q) = %q, %v", tag, notes, err)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range n {
		for _, key := range []string{fmt.Sprintf("bff:s%d", i), fmt.Sprintf("bff:{t%d}until", i)} {
			c.MoveSlot(key)
		}
	}
	cancel()
	wg.Wait()
	if done.Load() == 0 {
		t.Error("nothing was done meanwhile")
	}
}

// Half a tag has moved, and the other half has not: neither node can run a
// script on both, and the call waits until one can.
func TestClusterSplitTag(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false)
	s := open(t, clustered(c), redisstore.Options{})
	if err := s.Tag(t.Context(), "t1", "s1", []byte("note"), far); err != nil {
		t.Fatal(err)
	}
	from := c.Owner("bff:{t1}until")
	to := c.Masters[0]
	if from == to {
		to = c.Masters[1]
	}
	slot := strconv.FormatInt(from.Must("CLUSTER", "KEYSLOT", "bff:{t1}until").(int64), 10)
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", from.ID())
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", to.ID())
	migrate := func(name string) {
		from.Must("MIGRATE", "127.0.0.1", strconv.Itoa(to.Port), name, "0", "5000")
	}
	migrate("bff:{t1}until")
	if err := s.Untag(within(t, patience), "t1", "s1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Untag of a tag that is in two places = %v; want a deadline exceeded", err)
	}
	done := make(chan error)
	go func() { done <- s.Tag(within(t, time.Minute), "t1", "s2", []byte("note"), far) }()
	migrate("bff:{t1}notes")
	if err := <-done; err != nil {
		t.Errorf("Tag = %v", err)
	}
	for _, r := range append([]*testserver.Redis{to, from}, c.Masters...) {
		r.Must("CLUSTER", "SETSLOT", slot, "NODE", to.ID())
	}
	if notes, err := s.Tagged(t.Context(), "t1"); err != nil || len(notes) != 2 {
		t.Errorf("Tagged = %q, %v; want two", notes, err)
	}
}

// A Cluster that lacks a master is no empty store.
func TestClusterDown(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false, "appendonly yes", "appendfsync always")
	s := open(t, clustered(c), redisstore.Options{})
	recovers(t, s, time.Second)
	owner := c.Owner("bff:sfault")
	dead := c.Masters[0]
	if dead == owner {
		dead = c.Masters[1]
	}
	dead.Kill()
	testserver.Eventually(t, "the others to notice", func() error {
		if info, err := owner.Do("CLUSTER", "INFO"); err != nil || !strings.Contains(info.(string), "cluster_state:fail") {
			return fmt.Errorf("%v, %v", info, err)
		}
		return nil
	})
	if _, _, _, ok, err := s.Load(within(t, patience), "sfault"); ok || err == nil || !strings.Contains(err.Error(), "CLUSTERDOWN") {
		t.Errorf("Load = %v, %v; want CLUSTERDOWN", ok, err)
	}
	for _, c := range calls {
		if err := c.do(within(t, patience), s); err == nil {
			t.Errorf("%s works in a Cluster that is down", c.name)
		}
	}
	dead.Restart()
	c.Await(c.Masters...)
	recovers(t, s, 2*time.Second)
}
