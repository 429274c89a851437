package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// What this file promises: whoever watches hears of every change of a session's
// record, or that they may have missed one.
//
// The server reports by itself which keys with our prefix change, to whoever
// asked on that connection (CLIENT TRACKING in its broadcasting mode, RESP3).
// The alternative was that the scripts publish each change. Measured on Redis
// 7.0, in the server's processor time for each Replace of 3 KB: without a
// watcher, tracking costs nothing and publishing 3 %; with ten, 7 % and 13 %.
// In a Cluster, what is published goes to every node, and gets lost there
// unnoticed when two nodes reconnect; tracking goes through the one connection
// that we ask on. And tracking also reports what no script of ours does, such
// as DEL and FLUSHALL.
//
// The reports and the answers on one connection come in order. A change that was
// made before the server took a command is reported before that command's
// answer. So to ask each master for its role, and to get the answer, is proof;
// and a connection that is dead and doesn't know it gives none.
//
// In a Cluster there is one such connection to every master that holds a slot,
// and the answer is that node's view of who holds which. If one differs from
// what it was, a change may have been made where nobody listened.

// ErrLost is what Watch returns, wrapped, when changes may not have been
// reported.
var ErrLost = errors.New("changes may not have been reported")

// maxReports is how many changes wait for the caller of Watch.
const maxReports = 1 << 16

// quiet is how long a master may at least take to answer.
const quiet = time.Second

// Watch calls changed with the key of every session's record that is created,
// replaced, extended or ended, or that expires, and synced at least once in
// every interval of the given length. It begins with a synced, and reports what
// changes from then on. It calls both on the caller's goroutine, returns nil
// when ctx ends, and otherwise an error that wraps [ErrLost]: when a connection
// breaks or is silent for a second and the interval, another master takes over,
// a slot moves, the server is emptied, or 65,536 changes wait to be reported.
//
// It uses one connection to each master.
func (s *Store) Watch(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error {
	if every <= 0 {
		return fmt.Errorf("redisstore: can't report every %v", every)
	}
	w := &watch{store: s, prefix: s.prefix + "s", wake: make(chan struct{}, 1)}
	err := w.run(ctx, every, changed, synced)
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, ErrLost) || errors.Is(err, ErrClosed) {
		return fmt.Errorf("redisstore: watch: %w", err)
	}
	return fmt.Errorf("%w: %w", failed(ctx, "watch", err), ErrLost)
}

// A watch is one call of Watch.
type watch struct {
	store  *Store
	prefix string
	nodes  map[string]*node // by address
	wake   chan struct{}    // holds one token if there is something new

	mu   sync.Mutex
	keys []string // to be reported
	lost bool
}

// A node is a master, on a connection of our own.
type node struct {
	conn rueidis.DedicatedClient
	view string      // what it said of itself and the others
	left atomic.Bool // and what is reported from now on is no news
}

func (n *node) leave() {
	n.left.Store(true)
	n.conn.Close() // within a second, also if the server is silent
}

func (w *watch) run(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error {
	client, err := w.store.client(ctx)
	if err != nil {
		return err
	}
	defer w.leave()
	first, cancel := context.WithTimeout(ctx, quiet+every)
	defer cancel()
	if err := w.enter(first, client); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var asked time.Time
	proved := make(chan error, 1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			asked = time.Now()
			go func() { // until the time limit
				ctx, cancel := context.WithTimeout(ctx, quiet+every)
				defer cancel()
				proved <- w.prove(ctx, client)
			}()
		case <-w.wake:
			if err := w.report(changed); err != nil {
				return err
			}
		case err := <-proved:
			if err := cmp.Or(w.report(changed), err); err != nil {
				return err
			}
			synced(asked)
			timer.Reset(every / 2)
		}
	}
}

// report reports what there is.
func (w *watch) report(changed func(key string)) error {
	w.mu.Lock()
	keys, lost := w.keys, w.lost
	w.keys = nil
	w.mu.Unlock()
	for _, key := range keys {
		changed(key)
	}
	if lost {
		return ErrLost
	}
	return nil
}

// invalidated takes what a server reports. A nil slice means that the
// connection broke, or that the server was emptied.
func (w *watch) invalidated(messages []rueidis.RedisMessage) {
	w.mu.Lock()
	if messages == nil || len(w.keys)+len(messages) > maxReports {
		w.lost = true
	}
	for i := range messages {
		if w.lost {
			w.keys = nil
			break
		}
		if name, err := messages[i].ToString(); err == nil && strings.HasPrefix(name, w.prefix) {
			w.keys = append(w.keys, strings.Clone(name[len(w.prefix)-1:]))
		}
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it is about to look
	}
}

// enter connects to every master and makes it report.
func (w *watch) enter(ctx context.Context, client rueidis.Client) error {
	cluster := client.Mode() == rueidis.ClientModeCluster
	type answer struct {
		addr string
		node *node
		err  error
	}
	nodes := client.Nodes()
	answers := make(chan answer)
	gone := make(chan struct{})
	defer close(gone)
	for addr, c := range nodes {
		go func() { // until the client's own time limits
			n, err := w.join(ctx, c, cluster)
			select {
			case answers <- answer{addr, n, err}:
			case <-gone: // nobody waits any more
				if n != nil {
					n.leave()
				}
			}
		}()
	}
	w.nodes = make(map[string]*node)
	var failures error
	for range nodes {
		select {
		case a := <-answers:
			if a.err != nil {
				failures = errors.Join(failures, a.err)
				continue
			}
			w.nodes[a.addr] = a.node
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if cluster {
		return w.settle(failures)
	}
	for addr, n := range w.nodes { // replicas, to which a client may send reads
		if n.view != "master" {
			delete(w.nodes, addr)
			n.leave()
		}
	}
	if len(w.nodes) != 1 {
		return cmp.Or(failures, fmt.Errorf("of %d servers, %d are masters", len(nodes), len(w.nodes)))
	}
	return nil
}

// join makes one server report on a connection of its own, and returns that and
// the server's view.
func (w *watch) join(ctx context.Context, client rueidis.Client, cluster bool) (*node, error) {
	n := new(node)
	n.conn, _ = client.Dedicate() // and closed, not given back
	n.conn.SetOnInvalidations(func(messages []rueidis.RedisMessage) {
		if !n.left.Load() {
			w.invalidated(messages)
		}
	})
	err := func() error {
		hello, err := n.conn.Do(ctx, n.conn.B().Arbitrary("HELLO").Build()).AsMap()
		if err != nil {
			return err
		}
		proto := hello["proto"]
		if version, err := proto.AsInt64(); err != nil || version < 3 {
			return errors.New("the connection doesn't speak RESP3")
		}
		for _, resp := range n.conn.DoMulti(ctx,
			// Off first: the application's client may have it on, in another mode.
			n.conn.B().Arbitrary("CLIENT", "TRACKING", "OFF").Build(),
			n.conn.B().Arbitrary("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", w.prefix).Build(),
		) {
			if err := resp.Error(); err != nil {
				return err
			}
		}
		n.view, err = n.ask(ctx, cluster)
		return err
	}()
	if err != nil {
		n.leave()
		return nil, err
	}
	return n, nil
}

// leave closes the connections.
func (w *watch) leave() {
	var wg sync.WaitGroup
	for _, n := range w.nodes {
		wg.Go(n.leave)
	}
	wg.Wait()
}

// ask returns n's view: whether it is the master or, in a Cluster, who holds
// which slots.
func (n *node) ask(ctx context.Context, cluster bool) (string, error) {
	if !cluster {
		role, err := n.conn.Do(ctx, n.conn.B().Arbitrary("ROLE").Build()).ToArray()
		if err != nil {
			return "", err
		}
		if len(role) == 0 {
			return "", errors.New("the server tells no role")
		}
		return role[0].ToString()
	}
	text, err := n.conn.Do(ctx, n.conn.B().Arbitrary("CLUSTER", "NODES").Build()).ToString()
	if err != nil {
		return "", err
	}
	return viewOf(strings.TrimPrefix(text, "txt:")) // as RESP3 names what it is
}

// viewOf returns what matters of an answer to CLUSTER NODES: whether the node
// itself is a master, and the names, epochs and slots of those that hold slots.
func viewOf(text string) (string, error) {
	self := "replica"
	var holders []string
	for line := range strings.Lines(text) {
		// id address flags master ping pong epoch link slot...
		f := strings.Fields(line)
		if len(f) < 8 {
			return "", errors.New("the server tells no nodes")
		}
		flags := strings.Split(f[2], ",")
		for _, slot := range f[8:] {
			if strings.HasPrefix(slot, "[") {
				return "", fmt.Errorf("a slot is moving: %w", ErrLost)
			}
		}
		if !slices.Contains(flags, "master") || len(f) == 8 {
			continue
		}
		holders = append(holders, f[0]+" "+f[6]+" "+strings.Join(f[8:], " "))
		if slices.Contains(flags, "myself") {
			self = "master"
		}
	}
	slices.Sort(holders)
	return self + "\n" + strings.Join(holders, "\n"), nil
}

// settle keeps the connections to the masters of a Cluster. They must be all,
// and of one view. failures is why others could not be reached.
func (w *watch) settle(failures error) error {
	for addr, n := range w.nodes {
		if !strings.HasPrefix(n.view, "master\n") {
			delete(w.nodes, addr)
			n.leave()
		}
	}
	var view string
	for _, n := range w.nodes {
		if view != "" && n.view != view {
			return fmt.Errorf("the masters don't agree on who holds which slots: %w", ErrLost)
		}
		view = n.view
	}
	holders := strings.Split(view, "\n")[1:]
	if view == "" || len(holders) != len(w.nodes) {
		return cmp.Or(failures, errors.New("not all masters are known"))
	}
	held := 0
	for _, holder := range holders {
		for _, slots := range strings.Fields(holder)[2:] {
			n, err := count(slots)
			if err != nil {
				return err
			}
			held += n
		}
	}
	if held != 16384 {
		return fmt.Errorf("%d of 16384 slots are held: %w", held, ErrLost)
	}
	return nil
}

// count returns how many slots "7" or "0-5460" are.
func count(slots string) (int, error) {
	from, to, ok := strings.Cut(slots, "-")
	if !ok {
		to = from
	}
	first, err1 := strconv.Atoi(from)
	last, err2 := strconv.Atoi(to)
	if err1 != nil || err2 != nil || last < first {
		return 0, errors.New("the server tells no slots")
	}
	return last - first + 1, nil
}

// prove returns nil if all that had been changed when it was called has been
// reported: every master answers, and is what it was.
func (w *watch) prove(ctx context.Context, client rueidis.Client) error {
	cluster := client.Mode() == rueidis.ClientModeCluster
	if !cluster {
		// Sentinels may have named another master, while this one doesn't know.
		for addr := range maps.Keys(w.nodes) {
			if _, ok := client.Nodes()[addr]; !ok {
				return fmt.Errorf("another master: %w", ErrLost)
			}
		}
	}
	results := make(chan error, len(w.nodes))
	for _, n := range w.nodes {
		go func() { // until ctx ends
			view, err := n.ask(ctx, cluster)
			if err == nil && view != n.view {
				err = fmt.Errorf("the master is another, or holds other slots: %w", ErrLost)
			}
			results <- err
		}()
	}
	var err error
	for range w.nodes {
		err = errors.Join(err, <-results)
	}
	return err
}
