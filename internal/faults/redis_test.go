package faults_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// A replica that can't be written to serves what is there, as long as nothing
// has to change.
func TestReadOnly(t *testing.T) {
	master := testserver.StartRedis(t, testserver.RedisServer)
	s := newSite(t)
	store, done := openRedis(t, "redis://"+master.Addr, redisstore.Options{})
	s.deploy(store, done)
	users := s.signIn(crowd)
	replica := master.StartReplica(testserver.RedisServer)
	store, done = openRedis(t, "redis://"+replica.Addr, redisstore.Options{})
	s.deploy(store, done)
	needs := append([]visit{}, writes...)
	for _, v := range reads { // a live access token
		if v.name != "session" && v.name != "sessions" {
			needs = append(needs, v)
		}
	}
	testserver.Eventually(t, "the access tokens to expire", func() error {
		for _, u := range users {
			if r := u.Fetch("GET", "/page", nil, nil); r.Status == http.StatusOK {
				return fmt.Errorf("%s", r)
			}
		}
		return nil
	})
	for _, u := range users {
		s.unavailable(u, needs...)
	}
	if r := users[0].Fetch("GET", "/auth/session", nil, nil); r.Status != http.StatusOK {
		t.Errorf("GET /auth/session = %s; the session can be read", r)
	}
	replica.Must("REPLICAOF", "NO", "ONE")
	s.recovers(users)
	s.nobodyLost(users)
}

// A full server signs nobody in, and keeps who is signed in: they stay, with
// new tokens, and can leave.
func TestFull(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer, "maxmemory-policy noeviction")
	s := newSite(t)
	store, done := openRedis(t, "redis://"+r.Addr, redisstore.Options{})
	s.deploy(store, done)
	users := s.signIn(crowd + 1)
	leaver, users := users[crowd], users[:crowd]
	work := s.traffic(users)
	r.Must("CONFIG", "SET", "maxmemory", "1")
	from := work.bad.Load()
	s.refreshed(2 * crowd)
	work.flows()
	if got := work.bad.Load() - from; got != 0 {
		t.Errorf("%d requests of people who were signed in were refused", got)
	}
	for _, v := range writes {
		if v.name == "callback" {
			s.unavailable(users[0], v)
		}
	}
	if got := leaver.Fetch("POST", "/logout", nil, nil); got.Status != http.StatusOK {
		t.Errorf("POST /logout = %s; want 200", got)
	}
	if got := leaver.Fetch("GET", "/page", nil, nil); got.Status != http.StatusUnauthorized {
		t.Errorf("after the sign-out: %s; want 401", got)
	}
	r.Must("CONFIG", "SET", "maxmemory", "0")
	leaver.in()
	s.recovers(append(users, leaver))
	work.stop()
	s.nobodyLost(users)
}

// A master dies, and its replica takes over.
func TestSentinelFailover(t *testing.T) {
	sentinel := testserver.StartSentinel(t, testserver.RedisServer)
	q := url.Values{"master_set": {sentinel.Name}, "addr": sentinel.Addrs()[1:]}
	s := newSite(t)
	// What one replica has is not lost: this is not about that named case.
	store, done := openRedis(t, "redis://"+sentinel.Addrs()[0]+"?"+q.Encode(), redisstore.Options{ReplicaWait: storeTimeout})
	s.deploy(store, done)
	users := s.signIn(crowd)
	work := s.traffic(users)
	s.refreshed(crowd)
	old := sentinel.Master()
	old.Kill()
	work.stalls()
	s.unavailable(users[0], reads...)
	sentinel.AwaitFailover(old)
	s.recovers(users)
	// The old one comes back as a replica.
	old.Restart()
	sentinel.Await()
	work.flows()
	s.refreshed(crowd)
	work.stop()
	s.recovers(users)
	s.nobodyLost(users)
}

// The slots that hold the sessions move from one master to another, again and
// again: nobody notices.
func TestClusterResharding(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false)
	s := newSite(t)
	q := url.Values{"addr": c.Addrs()[1:]}
	store, done := openRedis(t, "redis://"+c.Addrs()[0]+"?"+q.Encode(), redisstore.Options{})
	s.deploy(store, done)
	users := s.signIn(crowd)
	var keys []string
	for _, r := range c.Masters {
		for _, key := range r.Must("KEYS", "bff:*").([]any) {
			keys = append(keys, key.(string))
		}
	}
	sessions := 0
	for _, key := range keys {
		if strings.HasPrefix(key, "bff:s") {
			sessions++
		}
	}
	if sessions != len(users) {
		t.Fatalf("%d sessions of %d users in %q", sessions, len(users), keys)
	}
	work := s.traffic(users)
	work.flows()
	from := work.bad.Load()
	for range 2 {
		for _, key := range keys {
			c.MoveSlot(key)
		}
		s.refreshed(crowd)
	}
	work.flows()
	if got := work.bad.Load() - from; got != 0 {
		t.Errorf("%d requests were refused", got)
	}
	work.stop()
	s.recovers(users)
	s.nobodyLost(users)
}

// A Cluster that lacks a master serves nobody, and signs nobody out.
func TestClusterDown(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false, "appendonly yes", "appendfsync always")
	s := newSite(t)
	q := url.Values{"addr": c.Addrs()[1:]}
	store, done := openRedis(t, "redis://"+c.Addrs()[0]+"?"+q.Encode(), redisstore.Options{})
	s.deploy(store, done)
	users := s.signIn(crowd)
	work := s.traffic(users)
	s.refreshed(crowd)
	dead := c.Masters[1]
	dead.Kill()
	testserver.Eventually(t, "the others to notice", func() error {
		info, err := c.Masters[0].Do("CLUSTER", "INFO")
		if err != nil || !strings.Contains(info.(string), "cluster_state:fail") {
			return fmt.Errorf("%v, %v", info, err)
		}
		return nil
	})
	work.stalls()
	s.unavailable(users[0], all...)
	dead.Restart()
	c.Await(c.Masters...)
	s.recovers(users)
	work.stop()
	s.recovers(users)
	s.nobodyLost(users)
}
