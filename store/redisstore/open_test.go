package redisstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// A wrong URL is refused before anything is sent, and what is wrong is told
// without the password, wherever its pieces ended up.
func TestOpenRefusesWrongURLs(t *testing.T) {
	for _, test := range []struct{ url, says string }{
		{"", "no redis or rediss URL"},
		{"127.0.0.1:6379", "no redis or rediss URL"},
		{"redis:///0", "no redis or rediss URL"},
		{"redis:hunter2", "no redis or rediss URL"},
		{"http://hunter2:hunter2@127.0.0.1", "neither redis nor rediss"},
		{"redis://bff:hunter2#hunter2@127.0.0.1", "percent-encoded"},
		{"redis://bff:hunter2/hunter2@127.0.0.1", "percent-encoded"},
		{"redis://bff:hunter2?hunter2@127.0.0.1", "percent-encoded"},
		{"redis://bff:%hunter2@127.0.0.1", "percent-encoded"},
		{"redis://127.0.0.1/hunter2", "not the number of a database"},
		{"redis://127.0.0.1/-1", "not the number of a database"},
		{"redis://127.0.0.1/0/1", "not the number of a database"},
		{"redis://127.0.0.1?addr=hunter2@127.0.0.1", "no host"},
		{"redis://127.0.0.1?addr=", "no host"},
		{"redis://127.0.0.1?adr=127.0.0.1", `unknown parameter "adr"`},
		{"redis://127.0.0.1?skip_verify=true", `unknown parameter "skip_verify"`},
		{"redis://127.0.0.1?master_set=", "parameter master_set is empty"},
		{"redis://127.0.0.1?sentinel_password=hunter2&sentinel_password=hunter2", "parameter sentinel_password is empty or there twice"},
		{"redis://127.0.0.1?a=%zz", "parameters can't be read"},
	} {
		s, err := redisstore.Open(t.Context(), test.url, redisstore.Options{})
		if err == nil {
			s.Close()
			t.Errorf("Open(%q) succeeds", test.url)
		} else if !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q) = %v; want an error that says %q and no password", test.url, err, test.says)
		}
	}
	for _, prefix := range []string{"a b", "{bff}:", "bff{", "bff}", "bff\x00", "bff\n", "bé"} {
		if _, err := redisstore.Open(t.Context(), "redis://127.0.0.1", redisstore.Options{Prefix: prefix}); err == nil || !strings.Contains(err.Error(), "Options.Prefix") {
			t.Errorf("Open with the prefix %q = %v; want an error that names it", prefix, err)
		}
	}
	if _, err := redisstore.Open(t.Context(), "redis://127.0.0.1", redisstore.Options{TLS: new(tls.Config)}); err == nil || !strings.Contains(err.Error(), "Options.TLS") {
		t.Errorf("Open of redis:// with a TLS configuration = %v; want an error", err)
	}
	if _, err := redisstore.New(nil, redisstore.Options{}); err == nil {
		t.Error("New(nil) succeeds")
	}
}

// What the server says about the configuration is told at once. That it can't
// be reached, or is busy, is not: a process starts without its store.
func TestOpenTellsWhatIsWrong(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	r.Must("ACL", "SETUSER", "bff", "on", ">secret", "~*", "+@all")
	for _, test := range []struct{ user, path, says string }{
		{"bff:hunter2@", "", "WRONGPASS"},
		{"bff:secret@", "/99", "DB index is out of range"},
	} {
		url := "redis://" + test.user + r.Addr + test.path
		s, err := redisstore.Open(t.Context(), url, redisstore.Options{})
		if err == nil {
			s.Close()
			t.Errorf("Open(%q) succeeds", url)
		} else if !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q) = %v; want an error that says %q", url, err, test.says)
		}
	}
	s := open(t, "redis://bff:secret@"+r.Addr+"/3", redisstore.Options{})
	create(t, s, "s1", "one")
	if got := r.Info("db3"); !strings.HasPrefix(got, "keys=") {
		t.Errorf("database 3 holds %q", got)
	}
	sentinel := testserver.StartSentinel(t, testserver.RedisServer)
	_, err := redisstore.Open(t.Context(), strings.Replace(watched(sentinel), "=sessions", "=nobody", 1), redisstore.Options{})
	if err == nil || !strings.Contains(err.Error(), "No such master") {
		t.Errorf("Open with a name that sentinels don't know = %v; want an error", err)
	}
}

func TestOpenBeforeTheServer(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	r.Kill()
	s := open(t, single(r), redisstore.Options{})
	if _, _, _, ok, err := s.Load(within(t, time.Second), "s1"); ok || err == nil {
		t.Fatalf("Load without a server = %v, %v; want an error", ok, err)
	}
	r.Restart()
	create(t, s, "s1", "one")
}

func TestClosed(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	create(t, s, "s1", "one")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, _, ok, err := s.Load(t.Context(), "s1"); ok || !errors.Is(err, redisstore.ErrClosed) {
		t.Errorf("Load after Close = %v, %v; want ErrClosed", ok, err)
	}
	if _, _, err := s.Replace(t.Context(), "s1", 1, nil); !errors.Is(err, redisstore.ErrClosed) {
		t.Errorf("Replace after Close = %v; want ErrClosed", err)
	}
	if err := s.Watch(t.Context(), time.Second, func(string) {}, func(time.Time) {}); !errors.Is(err, redisstore.ErrClosed) {
		t.Errorf("Watch after Close = %v; want ErrClosed", err)
	}
	r.Kill()
	s = open(t, single(r), redisstore.Options{})
	s.Close()
	if _, _, _, ok, err := s.Load(t.Context(), "s1"); ok || !errors.Is(err, redisstore.ErrClosed) {
		t.Errorf("Load after Close, never connected = %v, %v; want ErrClosed", ok, err)
	}
}

// The application's own client stays the application's.
func TestNewLeavesTheClientOpen(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := redisstore.New(client, redisstore.Options{Prefix: "sessions/"})
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, "s1", "one")
	s.Close()
	got, err := client.Do(t.Context(), client.B().Get().Key("sessions/s1").Build()).ToString()
	if err != nil || !strings.HasSuffix(got, "one") {
		t.Errorf("GET after Close = %q, %v", got, err)
	}
}

// Reads go to the master also where the application sends its own to replicas.
func TestNewReadsFromTheMaster(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	replica := r.StartReplica(testserver.RedisServer)
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:    []string{r.Addr},
		Standalone:     rueidis.StandaloneOption{ReplicaAddress: []string{replica.Addr}},
		SendToReplicas: func(cmd rueidis.Completed) bool { return cmd.IsReadOnly() },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := redisstore.New(client, redisstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	replica.Pause()
	t.Cleanup(replica.Resume)
	create(t, s, "s1", "one")
	holds(t, s, "s1", "one")
	if err := s.Tag(t.Context(), "t1", "s1", nil, far); err != nil {
		t.Fatal(err)
	}
	if notes, err := s.Tagged(t.Context(), "t1"); err != nil || len(notes) != 1 {
		t.Errorf("Tagged = %q, %v", notes, err)
	}
}

// Two applications share a server and meet nowhere.
func TestPrefixes(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	a := open(t, single(r), redisstore.Options{Prefix: "a:"})
	b := open(t, single(r), redisstore.Options{Prefix: "b:"})
	_, next, err := b.Ended(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 16)
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan error, 1)
	began := make(chan struct{}, 1024)
	go func() {
		watching <- b.Watch(ctx, 100*time.Millisecond, func(key string) { heard <- key }, func(time.Time) {
			select {
			case began <- struct{}{}:
			default:
			}
		})
	}()
	<-began
	create(t, a, "s1", "one")
	create(t, b, "s1", "two")
	if err := a.Tag(t.Context(), "t1", "s1", []byte("note"), far); err != nil {
		t.Fatal(err)
	}
	if ok, err := a.End(t.Context(), "s1", 0, []byte("bye"), far); !ok || err != nil {
		t.Fatal(ok, err)
	}
	holds(t, b, "s1", "two")
	if notes, err := b.Tagged(t.Context(), "t1"); err != nil || len(notes) != 0 {
		t.Errorf("Tagged of the other prefix = %q, %v; want none", notes, err)
	}
	if keys, _, err := b.Ended(t.Context(), next); err != nil || len(keys) != 0 {
		t.Errorf("Ended of the other prefix = %q, %v; want none", keys, err)
	}
	create(t, b, "s2", "last")
	for key := ""; key != "s2"; {
		if key = <-heard; key != "s1" && key != "s2" {
			t.Errorf("Watch of the other prefix reports %q", key)
		}
	}
	select {
	case key := <-heard:
		t.Errorf("Watch of the other prefix reports %q too", key)
	default:
	}
	cancel()
	if err := <-watching; err != nil {
		t.Error(err)
	}
	for _, key := range r.Must("KEYS", "*").([]any) {
		if name := key.(string); !strings.HasPrefix(name, "a:") && !strings.HasPrefix(name, "b:") {
			t.Errorf("the key %q has neither prefix", name)
		}
	}
}

// permissions are what the package's documentation says a user needs.
func permissions(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rule, ok := strings.Cut(string(source), "ACL SETUSER bff on >password ")
	rule, _, ok2 := strings.Cut(rule, "\n//\n")
	if !ok || !ok2 {
		t.Fatal("the package's documentation has no ACL rule")
	}
	return strings.Fields(strings.NewReplacer("//", "", "\\", "").Replace(rule))
}

// A user with the documented permissions can do everything, on every kind of
// deployment, and one without any of them can't.
func TestACL(t *testing.T) {
	rule := permissions(t)
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			r := testserver.StartRedis(t, server)
			r.StartReplica(server)
			r.Must(append([]string{"ACL", "SETUSER", "bff", "on", ">pass/word"}, rule...)...)
			everything(t, open(t, "redis://bff:pass%2Fword@"+r.Addr, redisstore.Options{}))
			refusedNothing(t, r)
		})
	}
	t.Run("cluster", func(t *testing.T) {
		c := testserver.StartCluster(t, testserver.RedisServer, 3, false)
		for _, r := range c.Masters {
			r.Must(append([]string{"ACL", "SETUSER", "bff", "on", ">password"}, rule...)...)
		}
		everything(t, open(t, strings.Replace(clustered(c), "//", "//bff:password@", 1), redisstore.Options{}))
		for _, r := range c.Masters {
			refusedNothing(t, r)
		}
	})
	t.Run("sentinel", func(t *testing.T) {
		s := testserver.StartSentinel(t, testserver.RedisServer)
		for _, r := range s.Nodes {
			r.Must(append([]string{"ACL", "SETUSER", "bff", "on", ">password"}, rule...)...)
		}
		for _, r := range s.Sentinels {
			r.Must("ACL", "SETUSER", "finder", "on", ">sentinel", "allchannels", "+@all")
		}
		url := strings.Replace(watched(s), "//", "//bff:password@", 1) + "&sentinel_user=finder&sentinel_password=sentinel"
		everything(t, open(t, url, redisstore.Options{}))
		refusedNothing(t, s.Nodes[0])
	})
	t.Run("refusal", func(t *testing.T) {
		r := testserver.StartRedis(t, testserver.RedisServer)
		r.Must(append(append([]string{"ACL", "SETUSER", "bff", "on", ">password"}, rule...), "-get", "-set")...)
		s := open(t, "redis://bff:password@"+r.Addr, redisstore.Options{})
		_, _, _, _, err := s.Load(t.Context(), "ssecret-key")
		_, err2 := s.Create(t.Context(), "ssecret-key", []byte("secret value"), far, far)
		for _, err := range []error{err, err2} {
			if err == nil || !strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "secret") {
				t.Errorf("without the permission: %v; want NOPERM, and neither key nor value", err)
			}
		}
	})
}

// refusedNothing checks that no command of a store was refused.
func refusedNothing(t *testing.T, r *testserver.Redis) {
	t.Helper()
	if log := r.Must("ACL", "LOG").([]any); len(log) != 0 {
		t.Errorf("%s refused %v", r.Addr, log)
	}
}

// everything calls each method of a store.
func everything(t *testing.T, s *redisstore.Store) {
	t.Helper()
	ctx := within(t, time.Minute)
	_, next, err := s.Ended(ctx, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	began, heard := make(chan struct{}, 1), make(chan string, 100)
	watchCtx, cancel := context.WithCancel(ctx)
	watching := make(chan error, 1)
	go func() {
		watching <- s.Watch(watchCtx, time.Second, func(key string) { heard <- key }, func(time.Time) {
			select {
			case began <- struct{}{}:
			default:
			}
		})
	}()
	select {
	case <-began:
	case err := <-watching:
		t.Fatal(err)
	}
	if ok, err := s.Create(ctx, "s1", []byte("one"), time.Now().Add(time.Minute), far); !ok || err != nil {
		t.Fatal(ok, err)
	}
	version := holds(t, s, "s1", "one")
	version, ok, err := s.Replace(ctx, "s1", version, []byte("two"))
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := s.Touch(ctx, "s1", far); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, key := range []string{"s1", "s2"} {
		if err := s.Tag(ctx, "t1", key, []byte(key), far); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tag(ctx, "t1", "s2", nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := s.Untag(ctx, "t1", "s2"); err != nil {
		t.Fatal(err)
	}
	if notes, err := s.Tagged(ctx, "t1"); err != nil || len(notes) != 1 || string(notes["s1"]) != "s1" {
		t.Fatalf("Tagged = %q, %v", notes, err)
	}
	if ok, err := s.End(ctx, "s1", version, []byte("bye"), far); !ok || err != nil {
		t.Fatal(ok, err)
	}
	gone(t, s, "s1", "bye")
	if keys, _, err := s.Ended(ctx, next); err != nil || len(keys) != 1 || keys[0] != "s1" {
		t.Fatalf("Ended = %q, %v", keys, err)
	}
	if since, err := s.Since(ctx); err != nil || since.After(time.Now().Add(time.Second)) || time.Since(since) > time.Hour {
		t.Fatalf("Since = %v, %v", since, err)
	}
	for range 4 {
		select {
		case key := <-heard:
			if key != "s1" {
				t.Errorf("Watch reports %q", key)
			}
		case <-ctx.Done():
			t.Fatal("Watch doesn't report")
		}
	}
	cancel()
	if err := <-watching; err != nil {
		t.Fatal(err)
	}
}

// authority makes a certificate authority and a server's certificate for that
// name, and returns the files and the authorities to trust.
func authority(t *testing.T, name string) (certFile, keyFile, caFile string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	issue := func(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, caKey := issue(ca, nil, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}}
	if ip := net.ParseIP(name); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{name}
	}
	leafDER, leafKey := issue(leaf, ca, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(parsed)
	return write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER), write("ca.pem", "CERTIFICATE", caDER), roots
}

func TestTLS(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			certFile, keyFile, caFile, roots := authority(t, "127.0.0.1")
			port := testserver.FreePort(t)
			testserver.StartRedis(t, server, fmt.Sprintf("tls-port %d", port),
				"tls-cert-file "+certFile, "tls-key-file "+keyFile, "tls-ca-cert-file "+caFile, "tls-auth-clients no")
			url := fmt.Sprintf("rediss://127.0.0.1:%d", port)
			everything(t, open(t, url, redisstore.Options{TLS: &tls.Config{RootCAs: roots}}))

			for what, config := range map[string]*tls.Config{
				"an unknown authority": nil,
				"another name":         {RootCAs: roots, ServerName: "redis.example.com"},
			} {
				s := open(t, url, redisstore.Options{TLS: config})
				if _, _, _, ok, err := s.Load(within(t, 10*time.Second), "s1"); ok || err == nil || !strings.Contains(err.Error(), "certificate") {
					t.Errorf("Load with %s = %v, %v; want an error about the certificate", what, ok, err)
				}
			}
		})
	}
}
