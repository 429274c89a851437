//go:build unix

package testserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The servers that speak Redis's protocol, as StartRedis takes them.
const (
	RedisServer  = "redis-server"
	ValkeyServer = "valkey-server"
)

// A Redis is a server that speaks Redis's protocol.
type Redis struct {
	*Process
	Port int
	Addr string   // host and port
	Auth []string // what Do says after AUTH, if anything
}

// StartRedis runs a server with these lines of configuration, on a free port
// and without persistence, unless they say otherwise.
func StartRedis(t testing.TB, server string, conf ...string) *Redis {
	t.Helper()
	return startRedis(t, server, false, conf)
}

func startRedis(t testing.TB, server string, sentinel bool, conf []string) *Redis {
	t.Helper()
	path, dir := Binary(t, []string{"/usr/local/bin", "/usr/sbin"}, server), t.TempDir()
	r := &Redis{Port: FreePort(t)}
	r.Addr = fmt.Sprintf("127.0.0.1:%d", r.Port)
	lines := []string{
		"bind 127.0.0.1",
		"port " + strconv.Itoa(r.Port),
		"dir " + dir,
		"protected-mode no",
	}
	if !sentinel {
		lines = append(lines, `save ""`, "repl-diskless-sync-delay 0", "enable-debug-command yes")
	}
	file := filepath.Join(dir, "server.conf")
	if err := os.WriteFile(file, []byte(strings.Join(append(lines, conf...), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{file}
	if sentinel {
		args = append(args, "--sentinel")
	}
	r.Process = Start(t, Command{Path: path, Args: args, Dir: dir, Ready: func() error {
		_, err := r.Do("PING")
		if err != nil && strings.HasPrefix(err.Error(), "NOAUTH") {
			return nil
		}
		return err
	}})
	return r
}

// Empty removes what the server, which has been stopped, has on disk.
func (r *Redis) Empty() { r.Wipe("server.conf") }

// Must sends a command and returns the answer, which must not be an error.
func (r *Redis) Must(args ...string) any {
	r.t.Helper()
	answer, err := r.Do(args...)
	if err != nil {
		r.t.Fatalf("%s: %v", args[0], err)
	}
	return answer
}

// Do sends a command on a connection of its own and returns the answer: a
// string, an int64, a []any or nil.
func (r *Redis) Do(args ...string) (any, error) {
	conn, err := net.DialTimeout("tcp", r.Addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	if r.Auth != nil {
		if _, err := command(conn, in, append([]string{"AUTH"}, r.Auth...)); err != nil {
			return nil, err
		}
	}
	return command(conn, in, args)
}

func command(out io.Writer, in *bufio.Reader, args []string) (any, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return nil, err
	}
	return reply(in)
}

// reply reads one answer (RESP2).
func reply(in *bufio.Reader) (any, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty line for an answer")
	}
	switch line[0] {
	case '+':
		return line[1:], nil
	case '-':
		return nil, errors.New(line[1:])
	}
	n, err := strconv.ParseInt(line[1:], 10, 64)
	if err != nil {
		return nil, err
	}
	switch line[0] {
	case ':':
		return n, nil
	case '$':
		if n < 0 {
			return nil, nil
		}
		buf := make([]byte, n+2)
		if _, err := io.ReadFull(in, buf); err != nil {
			return nil, err
		}
		return string(buf[:n]), nil
	case '*':
		if n < 0 {
			return nil, nil
		}
		list := make([]any, n)
		for i := range list {
			if list[i], err = reply(in); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("an answer of type %q", line[0])
}

// Info returns a field of the server's INFO, or "".
func (r *Redis) Info(field string) string {
	r.t.Helper()
	return infoField(r.Must("INFO", "everything").(string), field)
}

func infoField(info, field string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return value
		}
	}
	return ""
}

// follows returns nil if r is a replica that is up to date with its master.
func (r *Redis) follows() error {
	info, err := r.Do("INFO", "replication")
	if err != nil {
		return err
	}
	if got := infoField(info.(string), "master_link_status"); got != "up" {
		return fmt.Errorf("%s: its link to the master is %q", r.Addr, got)
	}
	return nil
}

// StartReplica runs a replica of r, which is up to date when it returns.
func (r *Redis) StartReplica(server string, conf ...string) *Redis {
	r.t.Helper()
	replica := StartRedis(r.t, server, append([]string{fmt.Sprintf("replicaof 127.0.0.1 %d", r.Port)}, conf...)...)
	Eventually(r.t, "replication", replica.follows)
	return replica
}

// A Sentinel is a master with a replica, watched by three sentinels.
type Sentinel struct {
	Name      string // of the master, as sentinels know it
	Nodes     []*Redis
	Sentinels []*Redis
	t         testing.TB
}

// How long sentinels wait for a master's answer before they call it down: for
// the test's whole life, so that a machine with much else to do makes them do
// nothing that the test doesn't expect, until AwaitFailover wants it done.
const (
	sentinelPatience = "600000" // milliseconds
	sentinelHaste    = "500"
)

// StartSentinel runs a master, one replica and three sentinels, which call the
// master down when AwaitFailover is called, and not before.
func StartSentinel(t testing.TB, server string, conf ...string) *Sentinel {
	t.Helper()
	s := &Sentinel{Name: "sessions", t: t}
	master := StartRedis(t, server, conf...)
	s.Nodes = []*Redis{master, master.StartReplica(server, conf...)}
	for range 3 {
		s.Sentinels = append(s.Sentinels, startRedis(t, server, true, []string{
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", s.Name, master.Port),
			fmt.Sprintf("sentinel down-after-milliseconds %s %s", s.Name, sentinelPatience),
			fmt.Sprintf("sentinel failover-timeout %s 3000", s.Name),
		}))
	}
	Eventually(t, "sentinels", s.settled)
	return s
}

// settled returns nil if every sentinel knows the others and a replica that can
// take over.
func (s *Sentinel) settled() error {
	for _, sentinel := range s.Sentinels {
		info, err := sentinel.Do("INFO", "sentinel")
		if err != nil {
			return err
		}
		if got := infoField(info.(string), "master0"); !strings.HasSuffix(got, ",slaves=1,sentinels=3") || !strings.Contains(got, "status=ok") {
			return fmt.Errorf("a sentinel knows %s", got)
		}
		replicas, err := sentinel.Do("SENTINEL", "REPLICAS", s.Name)
		if err != nil {
			return err
		}
		fields := map[string]string{}
		list := replicas.([]any)[0].([]any)
		for i := 0; i+1 < len(list); i += 2 {
			fields[list[i].(string)] = list[i+1].(string)
		}
		if fields["flags"] != "slave" || fields["master-link-status"] != "ok" {
			return fmt.Errorf("a sentinel has a replica that is %s, and its link is %s", fields["flags"], fields["master-link-status"])
		}
	}
	return nil
}

// Await waits until every sentinel knows the others and a replica that can take
// over, as after a failover whose old master has come back.
func (s *Sentinel) Await() {
	s.t.Helper()
	Eventually(s.t, "sentinels", s.settled)
}

// Master returns the node that most sentinels call the master.
func (s *Sentinel) Master() *Redis {
	s.t.Helper()
	votes := map[string]int{}
	for _, sentinel := range s.Sentinels {
		if addr, err := sentinel.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.Name); err == nil {
			port := addr.([]any)[1].(string)
			votes[port]++
			for _, node := range s.Nodes {
				if votes[port] >= 2 && strconv.Itoa(node.Port) == port {
					return node
				}
			}
		}
	}
	s.t.Fatalf("the sentinels don't agree: %v", votes)
	return nil
}

// AwaitFailover lets the sentinels call old down, unless it answers them, waits
// until every one that runs names another master, which is one, and returns it.
func (s *Sentinel) AwaitFailover(old *Redis) *Redis {
	s.t.Helper()
	s.callDownAfter(sentinelHaste)
	defer s.callDownAfter(sentinelPatience)
	var master *Redis
	Eventually(s.t, "failover", func() error {
		for i, sentinel := range s.Sentinels {
			if sentinel.run == nil {
				continue
			}
			addr, err := sentinel.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.Name)
			if err != nil {
				return err
			}
			for _, node := range s.Nodes {
				if strconv.Itoa(node.Port) == addr.([]any)[1].(string) {
					master = node
				}
			}
			if master == nil || master == old {
				return fmt.Errorf("sentinel %d names the old master", i)
			}
		}
		role, err := master.Do("ROLE")
		if err == nil && role.([]any)[0] != "master" {
			err = fmt.Errorf("the new master is a %v", role.([]any)[0])
		}
		return err
	})
	return master
}

// callDownAfter sets how long the sentinels that run wait for an answer.
func (s *Sentinel) callDownAfter(milliseconds string) {
	s.t.Helper()
	for _, sentinel := range s.Sentinels {
		if sentinel.run != nil {
			sentinel.Must("SENTINEL", "SET", s.Name, "down-after-milliseconds", milliseconds)
		}
	}
}

// Addrs returns the addresses of the sentinels.
func (s *Sentinel) Addrs() []string { return addrs(s.Sentinels) }

// A Cluster is a Redis Cluster: as many masters as there are, then as many
// replicas, if any.
type Cluster struct {
	Masters  []*Redis
	Replicas []*Redis
	t        testing.TB
}

// slots is how many a cluster has.
const slots = 16384

// StartCluster runs a cluster of that many masters, each with a replica if that
// is wanted.
func StartCluster(t testing.TB, server string, masters int, replicas bool, conf ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for i := range masters {
		node := c.StartNode(server, conf...)
		node.Must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
		c.Masters = append(c.Masters, node)
	}
	if replicas {
		for range masters {
			c.Replicas = append(c.Replicas, c.StartNode(server, conf...))
		}
	}
	for i, node := range append(c.Masters, c.Replicas...) {
		node.Must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		c.Meet(node)
	}
	c.Await(c.Masters...)
	c.Await(c.Replicas...)
	for i, node := range c.Replicas {
		id := c.Masters[i].ID()
		Eventually(t, "cluster", func() error {
			_, err := node.Do("CLUSTER", "REPLICATE", id)
			return err
		})
		Eventually(t, "replication", node.follows)
		// A master that doesn't know its replica lets it take nothing over.
		for _, other := range append(c.Masters, c.Replicas...) {
			Eventually(t, "cluster", func() error { return other.knows(node.ID(), id) })
		}
	}
	return c
}

// knows returns nil if a cluster's node r knows that the one is a replica of
// the other.
func (r *Redis) knows(replica, master string) error {
	list, err := r.Do("CLUSTER", "NODES")
	if err != nil {
		return err
	}
	for line := range strings.Lines(list.(string)) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == replica && f[3] == master {
			return nil
		}
	}
	return fmt.Errorf("%s: does not know that %s is a replica of %s", r.Addr, replica, master)
}

// StartNode runs a node that belongs to no cluster yet.
func (c *Cluster) StartNode(server string, conf ...string) *Redis {
	c.t.Helper()
	return StartRedis(c.t, server, append([]string{
		"cluster-enabled yes",
		"cluster-port " + strconv.Itoa(FreePort(c.t)),
		"cluster-node-timeout 5000", // milliseconds; less, and a busy machine makes a master fail that nobody killed
		"cluster-config-file nodes.conf",
	}, conf...)...)
}

// Meet makes node a member of the cluster.
func (c *Cluster) Meet(node *Redis) {
	c.t.Helper()
	first := c.Masters[0]
	if node != first {
		port := first.Must("CONFIG", "GET", "cluster-port").([]any)[1].(string)
		node.Must("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(first.Port), port)
	}
}

// Await waits until each of nodes knows the whole cluster, finds it well and
// says what the others say about who holds which slots.
func (c *Cluster) Await(nodes ...*Redis) {
	c.t.Helper()
	want := strconv.Itoa(len(c.Masters) + len(c.Replicas))
	var view string
	for _, node := range nodes {
		Eventually(c.t, "cluster", func() error {
			info, err := node.Do("CLUSTER", "INFO")
			if err != nil {
				return err
			}
			state, known := infoField(info.(string), "cluster_state"), infoField(info.(string), "cluster_known_nodes")
			if state != "ok" || known != want {
				return fmt.Errorf("%s: state %s, %s nodes known of %s", node.Addr, state, known, want)
			}
			list, err := node.Do("CLUSTER", "NODES")
			if err != nil {
				return err
			}
			var holders []string
			for line := range strings.Lines(list.(string)) {
				if f := strings.Fields(line); len(f) > 8 { // name, epoch and slots
					holders = append(holders, f[0]+" "+strings.Join(f[6:], " "))
				}
			}
			slices.Sort(holders)
			if view == "" {
				view = strings.Join(holders, "\n")
			}
			if got := strings.Join(holders, "\n"); got != view {
				return fmt.Errorf("%s: says\n%s\nand another said\n%s", node.Addr, got, view)
			}
			return nil
		})
	}
}

// ID returns the name of a cluster's node.
func (r *Redis) ID() string {
	r.t.Helper()
	return r.Must("CLUSTER", "MYID").(string)
}

// Owner returns the master that holds key.
func (c *Cluster) Owner(key string) *Redis {
	c.t.Helper()
	slot := c.Masters[0].Must("CLUSTER", "KEYSLOT", key).(int64)
	for _, r := range c.Masters[0].Must("CLUSTER", "SLOTS").([]any) {
		r := r.([]any)
		if r[0].(int64) <= slot && slot <= r[1].(int64) {
			port := int(r[2].([]any)[1].(int64))
			for _, node := range append(c.Masters, c.Replicas...) {
				if node.Port == port {
					return node
				}
			}
		}
	}
	c.t.Fatalf("no master holds slot %d", slot)
	return nil
}

// MoveSlot moves the slot of key, with all that is in it, to the next master.
func (c *Cluster) MoveSlot(key string) {
	c.t.Helper()
	from := c.Owner(key)
	to := c.Masters[(slices.Index(c.Masters, from)+1)%len(c.Masters)]
	slot := strconv.FormatInt(from.Must("CLUSTER", "KEYSLOT", key).(int64), 10)
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", from.ID())
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", to.ID())
	for {
		keys := from.Must("CLUSTER", "GETKEYSINSLOT", slot, "1").([]any)
		if len(keys) == 0 {
			break
		}
		from.Must("MIGRATE", "127.0.0.1", strconv.Itoa(to.Port), keys[0].(string), "0", "5000")
	}
	// The new owner first, so that one of them always takes it.
	for _, r := range append([]*Redis{to, from}, c.Masters...) {
		r.Must("CLUSTER", "SETSLOT", slot, "NODE", to.ID())
	}
	// A node that hasn't heard of the last move's epoch takes the same for its
	// own claim, and then a slot can have two owners for a moment.
	Eventually(c.t, "the same epoch everywhere", func() error {
		var first string
		for i, r := range c.Masters {
			_, rest, _ := strings.Cut(r.Must("CLUSTER", "INFO").(string), "cluster_current_epoch:")
			epoch, _, _ := strings.Cut(rest, "\r\n")
			if i == 0 {
				first = epoch
			}
			if epoch == "" || epoch != first {
				return fmt.Errorf("%s is at epoch %q, %s at %q", c.Masters[0].Addr, first, r.Addr, epoch)
			}
		}
		return nil
	})
}

// Addrs returns the addresses of the masters.
func (c *Cluster) Addrs() []string { return addrs(c.Masters) }

func addrs(nodes []*Redis) (list []string) {
	for _, r := range nodes {
		list = append(list, r.Addr)
	}
	return list
}
