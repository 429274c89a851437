package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// ErrClosed is what a Store's methods return, wrapped, after Close.
var ErrClosed = errors.New("closed")

// Options say how a Store uses the server. The zero Options are good.
type Options struct {
	// Prefix begins every key that the Store uses; see the package's
	// documentation. Two applications on one server need two prefixes, neither
	// of which begins with the other. It is printable ASCII without spaces or
	// braces. Empty means "bff:".
	Prefix string

	// ReplicaWait is how long Replace and End wait until a replica has what
	// they wrote, where there are replicas. It is for a failover: what no
	// replica has is lost in one. They succeed also if it takes longer. Zero
	// means 100 milliseconds, negative that they don't wait.
	ReplicaWait time.Duration

	// TLS is how [Open] connects to a rediss URL. Nil means TLS 1.2 or later,
	// with the system's certificate authorities and the host names of the
	// addresses.
	TLS *tls.Config
}

// Open returns a Store on the server that the URL names:
//
//	redis://user:password@host:6379/0
//	rediss://user:password@host:6379
//
// rediss means TLS; valkey and valkeys mean the same as redis and rediss. User,
// password, port and database may be left out. A password is percent-encoded.
// There may be these parameters:
//
//	addr=host:port      another node of the Cluster, or another sentinel; may be repeated
//	master_set=name     the addresses are sentinels', and this is their name for the master
//	sentinel_user=name, sentinel_password=secret
//	                    for the sentinels, if they want one
//	client_name=name    for the server's CLIENT LIST; "bff" if it is left out
//
// Whether a server is a Cluster's node is found out.
//
// The server need not be there: Open tries to reach it until ctx ends or that
// fails, and afterwards every call does, so that a process can start before its
// store. It is an error if the URL is wrong, or if the server answers that the
// user, the password or the database is.
func Open(ctx context.Context, serverURL string, opts Options) (*Store, error) {
	option, err := parseURL(serverURL, opts.TLS)
	if err != nil {
		return nil, err
	}
	s, err := newStore(opts)
	if err != nil {
		return nil, err
	}
	s.dial = func() (rueidis.Client, error) { return rueidis.NewClient(option) }
	_, err = s.client(ctx)
	var e *rueidis.RedisError
	if errors.As(err, &e) && refused(e) {
		s.Close()
		return nil, failed(ctx, "open", err)
	}
	return s, nil
}

// refused reports whether an answer at the start of a connection tells that the
// configuration is wrong, and not that the server is busy.
func refused(e *rueidis.RedisError) bool {
	return slices.ContainsFunc([]string{
		"WRONGPASS ", "NOAUTH ", "NOPERM ", "AUTH ", "DB index ", "SELECT ", "No such master ",
	}, func(prefix string) bool { return strings.HasPrefix(e.Error(), prefix) })
}

// New returns a Store on a client that the application has. Close leaves it
// open. Reads must go to the master: a client whose SendToReplicas says
// otherwise of the command GET shows sessions that have ended, so nothing that
// the Store sends is marked as a read, and a SendToReplicas that goes by
// IsReadOnly is fine. Watch needs RESP3, the client's default.
func New(client rueidis.Client, opts Options) (*Store, error) {
	if client == nil {
		return nil, errors.New("redisstore: no client")
	}
	s, err := newStore(opts)
	if err != nil {
		return nil, err
	}
	s.made.Store(&client)
	return s, nil
}

func newStore(opts Options) (*Store, error) {
	s := &Store{prefix: opts.Prefix, wait: opts.ReplicaWait}
	if s.prefix == "" {
		s.prefix = "bff:"
	}
	if s.wait == 0 {
		s.wait = 100 * time.Millisecond
	}
	for _, c := range []byte(s.prefix) {
		if c <= ' ' || c > '~' || c == '{' || c == '}' {
			return nil, fmt.Errorf("redisstore: Options.Prefix %q: printable ASCII without spaces and braces is allowed", s.prefix)
		}
	}
	return s, nil
}

// parseURL reads the URL that Open takes. Its errors quote no part of it that
// could be a piece of a password.
func parseURL(serverURL string, config *tls.Config) (rueidis.ClientOption, error) {
	u, err := url.Parse(serverURL)
	if err != nil || u.Host == "" || u.Opaque != "" || u.Fragment != "" {
		return rueidis.ClientOption{}, errors.New("redisstore: that is no redis or rediss URL; is the password percent-encoded?")
	}
	option := rueidis.ClientOption{
		ClientName:    "bff",
		ClientSetInfo: rueidis.DisableClientSetInfo,
		Dialer:        net.Dialer{Timeout: 2 * time.Second},
		// A connection that says nothing for that long is dead.
		ConnWriteTimeout:    5 * time.Second,
		ReadBufferEachConn:  128 << 10,
		WriteBufferEachConn: 128 << 10,
		// For WAIT and Watch.
		BlockingPoolSize:    64,
		BlockingPoolCleanup: time.Minute,
		ClusterOption:       rueidis.ClusterOption{ShardsRefreshInterval: 5 * time.Second},
		Sentinel:            rueidis.SentinelOption{TopologyRefreshInterval: time.Second, ClientName: "bff", Dialer: net.Dialer{Timeout: 2 * time.Second}},
		DisableRetry:        true, // the Store knows what it may repeat
		DisableCache:        true, // bff has its own
	}
	switch u.Scheme {
	case "redis", "valkey":
		if config != nil {
			return option, errors.New("redisstore: Options.TLS is set, but the URL is not rediss://")
		}
	case "rediss", "valkeys":
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		option.TLSConfig = config.Clone()
		option.Sentinel.TLSConfig = option.TLSConfig
	default:
		return option, errors.New("redisstore: the URL's scheme is neither redis nor rediss")
	}
	option.Username = u.User.Username()
	option.Password, _ = u.User.Password()
	if db := strings.TrimPrefix(u.Path, "/"); db != "" {
		if option.SelectDB, err = strconv.Atoi(db); err != nil || option.SelectDB < 0 {
			return option, errors.New("redisstore: the URL's path is not the number of a database")
		}
	}
	port := "6379"
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return option, errors.New("redisstore: the URL's parameters can't be read")
	}
	if query.Has("master_set") {
		port = "26379"
	}
	hosts := []string{u.Host}
	for name, values := range query {
		if name != "addr" && (len(values) != 1 || values[0] == "") {
			return option, fmt.Errorf("redisstore: the URL's parameter %s is empty or there twice", name)
		}
		switch name {
		case "addr":
			hosts = append(hosts, values...)
		case "master_set":
			option.Sentinel.MasterSet = values[0]
		case "sentinel_user":
			option.Sentinel.Username = values[0]
		case "sentinel_password":
			option.Sentinel.Password = values[0]
		case "client_name":
			option.ClientName, option.Sentinel.ClientName = values[0], values[0]
		default:
			return option, fmt.Errorf("redisstore: the URL has an unknown parameter %.20q", name)
		}
	}
	for _, host := range hosts {
		addr, err := withPort(host, port)
		if err != nil {
			return option, err
		}
		option.InitAddress = append(option.InitAddress, addr)
	}
	slices.Sort(option.InitAddress)
	option.InitAddress = slices.Compact(option.InitAddress)
	return option, nil
}

func withPort(host, port string) (string, error) {
	u := url.URL{Host: host}
	if p := u.Port(); p != "" {
		port = p
	}
	if u.Hostname() == "" || strings.ContainsAny(host, "/@?#") {
		return "", errors.New("redisstore: an address in the URL is no host or host:port")
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// A connector has the client, once there is one.
type connector struct {
	made     atomic.Pointer[rueidis.Client]
	answered atomic.Int64                   // when the last call that got an answer began, Unix nanoseconds; 0 if a later one got none
	dial     func() (rueidis.Client, error) // nil if the client is the application's

	mu      sync.Mutex
	dialing *dialing // nil if nobody is
	closed  bool
}

// A dialing is one attempt to make the client.
type dialing struct {
	done   chan struct{}
	client rueidis.Client // after done, one of the two
	err    error          // after done
}

// client returns the client. The first call, and those after one that failed,
// make it; they wait no longer than ctx.
func (c *connector) client(ctx context.Context) (rueidis.Client, error) {
	if made := c.made.Load(); made != nil {
		return *made, nil
	}
	c.mu.Lock()
	d := c.dialing
	switch {
	case c.closed:
		c.mu.Unlock()
		return nil, ErrClosed
	case c.made.Load() != nil: // meanwhile
		c.mu.Unlock()
		return *c.made.Load(), nil
	case d == nil:
		d = &dialing{done: make(chan struct{})}
		c.dialing = d
		go c.connect(d) // until the client's own time limits
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.client, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *connector) connect(d *dialing) {
	client, err := c.dial()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(d.done)
	c.dialing = nil
	switch {
	case err != nil:
		d.err = err
	case c.closed:
		client.Close()
		d.err = ErrClosed
	default:
		d.client = client
		c.made.Store(&client)
	}
}

// Close closes the connections, if Open made them. Calls that are under way
// fail.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dial == nil || s.closed {
		return nil
	}
	s.closed = true
	if made := s.made.Load(); made != nil {
		(*made).Close()
	}
	return nil
}

// call runs f and returns its result, or the context's error as soon as ctx
// ends. The client heeds ctx too, but not everywhere: a call that needs a
// connection waits for whoever is making one, as long as they do, and so does
// one that finds a thousand before it. So unless all is well, f runs beside us
// and is left alone if need be.
func (c *connector) call(ctx context.Context, f func(rueidis.Client) rueidis.RedisResult) rueidis.RedisResult {
	if err := ctx.Err(); err != nil {
		return rueidis.NewErrorResult(err)
	}
	client, err := c.client(ctx)
	if err != nil {
		return rueidis.NewErrorResult(err)
	}
	if now := time.Now().UnixNano(); now-c.answered.Load() < int64(lively) {
		resp := f(client)
		c.observe(now, resp)
		return resp
	}
	done := make(chan rueidis.RedisResult, 1)
	go func() { // until the client's own time limits
		now := time.Now().UnixNano()
		resp := f(client)
		c.observe(now, resp)
		done <- resp
	}()
	select {
	case resp := <-done:
		return resp
	case <-ctx.Done():
		return rueidis.NewErrorResult(ctx.Err())
	}
}

// lively is how long after an answer the server is taken to be there.
const lively = 50 * time.Millisecond

// observe notes that a call that began then was answered, or was not.
func (c *connector) observe(began int64, resp rueidis.RedisResult) {
	last := c.answered.Load()
	switch err := resp.Error(); {
	case err != nil && !isAnswer(err):
		c.answered.Store(0)
	case began-last > int64(lively/10): // not each time: it is shared by all
		c.answered.CompareAndSwap(last, began)
	}
}

// isAnswer reports whether err is what the server said.
func isAnswer(err error) bool {
	var e *rueidis.RedisError
	return errors.As(err, &e)
}

// reads is how often a read is sent: each of the client's connections to a
// server can have died since it was last used.
const reads = 5

// read runs f, which reads, and again if its connection breaks. What the server
// answers is final.
func (s *Store) read(ctx context.Context, f func(rueidis.Client) rueidis.RedisResult) (resp rueidis.RedisResult) {
	for range reads {
		resp = s.call(ctx, f)
		if err := resp.Error(); err == nil || isAnswer(err) || errors.Is(err, rueidis.ErrClosing) || ctx.Err() != nil {
			break
		}
	}
	return resp
}
