package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/internal/seal"
)

func newKey() []byte {
	k := make([]byte, seal.KeySize)
	rand.Read(k)
	return k
}

func newRing(t testing.TB, issuer, clientID string, keys ...[]byte) *seal.Ring {
	t.Helper()
	r, err := seal.NewRing(keys, issuer, clientID)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// D38: 57 bytes, 76 characters, that length only.
func TestCookieShape(t *testing.T) {
	ring := newRing(t, "https://op", "app", newKey())
	id := ring.NewID(time.Unix(1_800_000_000, 0))
	cookie := id.Cookie()
	if len(cookie) != 76 {
		t.Fatalf("cookie has %d characters, want 76", len(cookie))
	}
	got, ok := ring.ParseCookie(cookie)
	if !ok || got.RecordKey() != id.RecordKey() || !got.SignedIn().Equal(time.Unix(1_800_000_000, 0)) {
		t.Fatalf("ParseCookie(%q) = %v, %v", cookie, got, ok)
	}
	if key := id.RecordKey(); key[0] != 's' || len(key) != 44 || strings.Contains(key, cookie[12:30]) {
		t.Errorf("record key %q is not a digest in the name space of sessions", key)
	}
}

// S408, X85: whatever isn't our cookie is refused, byte by byte.
func TestCookieForged(t *testing.T) {
	ring := newRing(t, "https://op", "app", newKey())
	id := ring.NewID(time.Now())
	cookie := id.Cookie()
	raw, err := base64.RawURLEncoding.DecodeString(cookie)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		forged := bytes.Clone(raw)
		forged[i] ^= 1
		if _, ok := ring.ParseCookie(base64.RawURLEncoding.EncodeToString(forged)); ok {
			t.Errorf("cookie with byte %d changed is accepted", i)
		}
	}
	for _, value := range []string{
		"", cookie[:75], cookie + "A", cookie + "=", strings.Repeat("A", 76), strings.Repeat("*", 76),
		"\n" + cookie[:75], cookie[:75] + "\n", strings.Repeat("\r\n", 38), strings.Repeat("A", 8192),
		base64.StdEncoding.EncodeToString(raw) + "x", id.RecordKey(),
	} {
		if _, ok := ring.ParseCookie(value); ok {
			t.Errorf("ParseCookie(%.90q) is accepted", value)
		}
	}
}

// D4: the same keys at another issuer or client are other keys.
func TestOtherRelyingParty(t *testing.T) {
	key := newKey()
	ours := newRing(t, "https://op/a", "app", key)
	id := ours.NewID(time.Now())
	value, err := id.Seal([]byte("head"), []byte("token"))
	if err != nil {
		t.Fatal(err)
	}
	attempt, err := ours.SealAttempt("n", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	for _, theirs := range []*seal.Ring{
		newRing(t, "https://op/b", "app", key),
		newRing(t, "https://op/a", "other", key),
		newRing(t, "https://op/aapp", "", key),
	} {
		if _, ok := theirs.ParseCookie(id.Cookie()); ok {
			t.Error("another relying party accepts the cookie")
		}
		if _, _, ok := theirs.OpenAttempt("n", attempt); ok {
			t.Error("another relying party opens the attempt")
		}
		other := theirs.NewID(time.Now())
		if rec, err := other.Open(id.RecordKey(), value, 2); err == nil {
			if _, err := rec.Part(nil, 0); err == nil {
				t.Error("another relying party opens the record")
			}
		}
	}
}

// S363: nothing but the record itself, under its own key, opens.
func TestRecord(t *testing.T) {
	ring := newRing(t, "https://op", "app", newKey())
	id, other := ring.NewID(time.Now()), ring.NewID(time.Now())
	parts := [][]byte{[]byte("head"), nil, bytes.Repeat([]byte("claims"), 1000), []byte("grant")}
	value, err := id.Seal(parts...)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := id.Seal(parts...)
	if bytes.Equal(value, again) {
		t.Error("sealed twice, the same bytes: the nonce is not fresh")
	}
	open := func(id seal.ID, key string, value []byte) error {
		rec, err := id.Open(key, value, len(parts))
		if err != nil {
			return err
		}
		for i, want := range parts {
			got, err := rec.Part(nil, i)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				t.Errorf("part %d = %q, want %q", i, got, want)
			}
		}
		return nil
	}
	if err := open(id, id.RecordKey(), value); err != nil {
		t.Fatalf("Open = %v", err)
	}
	if open(other, id.RecordKey(), value) == nil {
		t.Error("another session's ID opens the record")
	}
	if open(id, other.RecordKey(), value) == nil {
		t.Error("the record opens under another record key")
	}
	if open(id, id.RecordKey(), nil) == nil {
		t.Error("an empty value opens")
	}
	for i := range value {
		bad := bytes.Clone(value)
		bad[i] ^= 1
		if open(id, id.RecordKey(), bad) == nil {
			t.Errorf("record with byte %d changed opens", i)
		}
		if open(id, id.RecordKey(), value[:i]) == nil {
			t.Errorf("record cut to %d bytes opens", i)
		}
	}
	// A part of one write beside the parts of another.
	mixed := bytes.Clone(again)
	copy(mixed[len(mixed)-5-16:], value[len(value)-5-16:])
	if open(id, id.RecordKey(), mixed) == nil {
		t.Error("parts of two writes open together")
	}
}

// D38, S363: the layout of a record and the derivation of its key, written out
// here a second time: HKDF-SHA-256 of the ring key for the purpose and the
// relying party, then of that and the session's secret.
func TestRecordFormat(t *testing.T) {
	ringKey := newKey()
	ring := newRing(t, "https://op", "app", ringKey)
	id := ring.NewID(time.Unix(1_800_000_000, 0))
	parts := []string{"the head", "", "the rest"}
	value, err := id.Seal([]byte(parts[0]), []byte(parts[1]), []byte(parts[2]))
	if err != nil {
		t.Fatal(err)
	}
	cookie, err := base64.RawURLEncoding.DecodeString(id.Cookie())
	if err != nil {
		t.Fatal(err)
	}
	secret := cookie[9:41]
	purpose, err := hkdf.Key(sha256.New, ringKey, nil, "bff record\x00https://op\x00app", 32)
	if err != nil {
		t.Fatal(err)
	}
	recordKey, err := hkdf.Expand(sha256.New, purpose, string(secret), 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(recordKey)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	if value[0] != 1 || !bytes.Equal(value[1:5], cookie[1:5]) || value[16] != 0 {
		t.Errorf("the record begins with %x", value[:17])
	}
	nonce, lengths, rest := value[5:17], value[17:25], value[25:]
	for i, want := range parts {
		sealed := rest
		if i < len(parts)-1 {
			sealed = rest[:binary.BigEndian.Uint32(lengths[4*i:])]
		}
		rest = rest[len(sealed):]
		nonce[11] = byte(i)
		got, err := aead.Open(nil, nonce, sealed, append([]byte(id.RecordKey()), byte(len(parts))))
		if err != nil || string(got) != want {
			t.Errorf("part %d = %q, %v; want %q", i, got, err, want)
		}
	}
	identity := sha256.Sum256([]byte("https://op\x00app"))
	digest := sha256.Sum256(slices.Concat([]byte("bff session\x00"), identity[:], secret))
	if want := "s" + base64.RawURLEncoding.EncodeToString(digest[:]); id.RecordKey() != want {
		t.Errorf("RecordKey = %s, want %s", id.RecordKey(), want)
	}
}

// D11: every key opens; one that was removed doesn't.
func TestRotation(t *testing.T) {
	k1, k2 := newKey(), newKey()
	before := newRing(t, "https://op", "app", k1)
	during := newRing(t, "https://op", "app", k2, k1)
	after := newRing(t, "https://op", "app", k2)
	id := before.NewID(time.Now())
	value, _ := id.Seal([]byte("x"))
	got, ok := during.ParseCookie(id.Cookie())
	if !ok {
		t.Fatal("the old key's cookie is refused while both keys are there")
	}
	rec, err := got.Open(got.RecordKey(), value, 1)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := rec.Part(nil, 0); err != nil || string(plain) != "x" {
		t.Errorf("Part = %q, %v", plain, err)
	}
	if got.CSRFToken() != id.CSRFToken() {
		t.Error("the CSRF token changed with the ring")
	}
	if _, ok := after.ParseCookie(id.Cookie()); ok {
		t.Error("the cookie outlives its key")
	}
	if fresh := during.NewID(time.Now()); func() bool { _, ok := after.ParseCookie(fresh.Cookie()); return !ok }() {
		t.Error("the first key does not seal")
	}
}

// A key ID names a key to one relying party, and tells nobody else which key it
// is, nor anything of it.
func TestKeyIDTellsNothing(t *testing.T) {
	k := newKey()
	idOf := func(issuer, client string) string {
		id := newRing(t, issuer, client, k).NewID(time.Now())
		b, err := base64.RawURLEncoding.DecodeString(id.Cookie())
		if err != nil {
			t.Fatal(err)
		}
		return string(b[1:5])
	}
	ours := idOf("https://op", "app")
	if ours != idOf("https://op", "app") {
		t.Error("two replicas name one key differently")
	}
	if ours == idOf("https://op", "other") || ours == idOf("https://other", "app") {
		t.Error("two relying parties name one key alike")
	}
	digest := sha256.Sum256(k)
	for what, b := range map[string][]byte{"the key": k, "its digest": digest[:]} {
		if bytes.Contains(b, []byte(ours)) {
			t.Errorf("the key ID is a part of %s", what)
		}
	}
}

// S451: the attempt's cookie expires, and opens under its own name only.
func TestAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := newRing(t, "https://op", "app", newKey())
		sealed, err := ring.SealAttempt("name", []byte("value"))
		if err != nil {
			t.Fatal(err)
		}
		// Unsealed it would be date|base64(value)|MAC, in base64 again.
		outer, err := base64.URLEncoding.DecodeString(sealed)
		if err != nil {
			t.Fatal(err)
		}
		if fields := strings.SplitN(string(outer), "|", 3); len(fields) != 3 {
			t.Errorf("sealed is %q", outer)
		} else if inner, err := base64.URLEncoding.DecodeString(fields[1]); err != nil || strings.Contains(string(inner), "value") {
			t.Errorf("the attempt is readable: %q, %v", inner, err)
		}
		value, spent, ok := ring.OpenAttempt("name", sealed)
		if !ok || string(value) != "value" {
			t.Fatalf("OpenAttempt = %q, %v", value, ok)
		}
		if key := spent("state"); key[0] != 'a' || key != spent("state") || key == spent("other") {
			t.Errorf("spent(state) = %q", key)
		}
		if _, _, ok := ring.OpenAttempt("other", sealed); ok {
			t.Error("opens under another name")
		}
		time.Sleep(seal.AttemptAge + 2*time.Second)
		if _, _, ok := ring.OpenAttempt("name", sealed); ok {
			t.Error("opens after its age")
		}
	})
}

func TestBadKeys(t *testing.T) {
	k := newKey()
	for name, keys := range map[string][][]byte{
		"none": {}, "empty": {nil}, "short": {k[:31]}, "long": {append(k, 0)[:33]}, "twice": {k, k},
	} {
		if _, err := seal.NewRing(keys, "i", "c"); err == nil {
			t.Errorf("%s: NewRing succeeds", name)
		}
	}
}

func TestCSRFToken(t *testing.T) {
	ring := newRing(t, "https://op", "app", newKey())
	id, other := ring.NewID(time.Now()), ring.NewID(time.Now())
	if !id.ValidCSRFToken(id.CSRFToken()) {
		t.Error("its own token is refused")
	}
	for _, token := range []string{"", "x", other.CSRFToken(), id.CSRFToken() + "A"} {
		if id.ValidCSRFToken(token) {
			t.Errorf("token %q is accepted", token)
		}
	}
}

func FuzzParseCookie(f *testing.F) {
	ring := newRing(f, "https://op", "app", newKey())
	id := ring.NewID(time.Now())
	f.Add(id.Cookie())
	f.Add(id.Cookie()[1:])
	f.Add("")
	f.Add(strings.Repeat("A", seal.CookieLen))
	f.Fuzz(func(t *testing.T, value string) {
		if got, ok := ring.ParseCookie(value); ok && value != id.Cookie() {
			t.Errorf("ParseCookie(%q) accepts %v, which nobody made", value, got.SignedIn())
		}
	})
}

func FuzzOpen(f *testing.F) {
	ring := newRing(f, "https://op", "app", newKey())
	id := ring.NewID(time.Now())
	value, err := id.Seal([]byte("head"), nil, []byte("claims"), []byte("grant"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add(value[:20])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := id.Open(id.RecordKey(), b, 4)
		if err != nil {
			return
		}
		for i := range 4 {
			if _, err := rec.Part(nil, i); err == nil && !bytes.Equal(b[:17], value[:17]) {
				t.Errorf("part %d of %x opens, which nobody sealed", i, b)
			}
		}
	})
}
