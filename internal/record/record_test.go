package record_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/record"
)

var at = time.UnixMilli(1_800_000_000_123)

var head = record.Head{
	Subject: "alice", SID: "s1", ACR: "urn:mfa", End: at, AuthTime: at.Add(-time.Hour), Groups: []string{"Admin", "", "b"},
	AccessExpiry: at, AccessObtained: at, Renewable: true, TokenID: [8]byte{1, 2},
	Claim:   record.Claim{Holder: [8]byte{9}, Length: 15 * time.Second, Contested: true},
	Failure: record.Failure{Count: 3, NotBefore: at, Doubts: 1, FirstDoubt: at},
}

var claims = record.Claims{JSON: []byte(`{"a":1}`), Values: []record.Pair{{Name: "k", Value: "v"}, {}}}

var grant = record.Grant{
	RefreshToken: "rt", IDToken: "a.b.c", AtUserInfo: []string{"email", "groups"}, Nonce: "n", Audience: []string{"x", "y"}, AuthorizedParty: "x", IssuedAt: at, AuthTime: at,
}

var attempt = record.Attempt{Secret: [32]byte{7}, Began: at, ReturnURL: "/x#y", MaxAge: -time.Second, ACRValues: "a b", Subject: "alice"}

var note = record.Note{Created: at, IssuedAt: at.Add(-time.Second), Device: "Firefox on Linux", Subject: [16]byte{3, 15: 4}, HasSID: true}

var tokens = record.Tokens{{Name: "n", Token: "t", Obtained: at, Expiry: at.Add(time.Hour)}, {Name: "m", NotBefore: at}}

func TestRoundTrip(t *testing.T) {
	gotTokens, err := record.ParseTokens(tokens.Append(nil))
	check(t, gotTokens, tokens, err)
	gotTokens, err = record.ParseTokens(record.Tokens(nil).Append(nil))
	check(t, gotTokens, record.Tokens(nil), err)
	gotNote, err := record.ParseNote(note.Append(nil))
	check(t, gotNote, note, err)
	gotHead, err := record.ParseHead(head.Append(nil))
	check(t, gotHead, head, err)
	zeroHead := record.Head{}
	gotHead, err = record.ParseHead(zeroHead.Append(nil))
	check(t, gotHead, zeroHead, err)
	gotClaims, err := record.ParseClaims(claims.Append(nil))
	check(t, gotClaims, claims, err)
	gotGrant, err := record.ParseGrant(grant.Append(nil))
	check(t, gotGrant, grant, err)
	gotAttempt, err := record.ParseAttempt(attempt.Append(nil))
	check(t, gotAttempt, attempt, err)
}

func check(t *testing.T, got, want any, err error) {
	t.Helper()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// A record cut short, or with something behind it, is corrupt, not half read.
func TestCorrupt(t *testing.T) {
	for name, c := range map[string]struct {
		good  []byte
		parse func([]byte) error
	}{
		"head":    {head.Append(nil), func(b []byte) error { _, err := record.ParseHead(b); return err }},
		"claims":  {claims.Append(nil), func(b []byte) error { _, err := record.ParseClaims(b); return err }},
		"grant":   {grant.Append(nil), func(b []byte) error { _, err := record.ParseGrant(b); return err }},
		"tokens":  {tokens.Append(nil), func(b []byte) error { _, err := record.ParseTokens(b); return err }},
		"note":    {note.Append(nil), func(b []byte) error { _, err := record.ParseNote(b); return err }},
		"attempt": {attempt.Append(nil), func(b []byte) error { _, err := record.ParseAttempt(b); return err }},
	} {
		for i := range c.good {
			if c.parse(c.good[:i]) == nil {
				t.Errorf("%s cut to %d bytes parses", name, i)
			}
		}
		if c.parse(append(bytes.Clone(c.good), 0)) == nil {
			t.Errorf("%s with a byte behind it parses", name)
		}
		other := bytes.Clone(c.good)
		other[0]++
		if c.parse(other) == nil {
			t.Errorf("%s of another version parses", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(head.Append(nil))
	f.Add(claims.Append(nil))
	f.Add(grant.Append(nil))
	f.Add(attempt.Append(nil))
	f.Add(note.Append(nil))
	f.Add(tokens.Append(nil))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := record.ParseHead(b); err == nil {
			if again, err := record.ParseHead(h.Append(nil)); err != nil || !reflect.DeepEqual(again, h) {
				t.Errorf("head %x does not survive encoding: %v", b, err)
			}
		}
		if a, err := record.ParseAttempt(b); err == nil {
			if again, err := record.ParseAttempt(a.Append(nil)); err != nil || !reflect.DeepEqual(again, a) {
				t.Errorf("attempt %x does not survive encoding: %v", b, err)
			}
		}
		if n, err := record.ParseNote(b); err == nil {
			if again, err := record.ParseNote(n.Append(nil)); err != nil || !reflect.DeepEqual(again, n) {
				t.Errorf("note %x does not survive encoding: %v", b, err)
			}
		}
		if x, err := record.ParseTokens(b); err == nil {
			if again, err := record.ParseTokens(x.Append(nil)); err != nil || !reflect.DeepEqual(again, x) {
				t.Errorf("tokens %x do not survive encoding: %v", b, err)
			}
		}
		record.ParseClaims(b)
		record.ParseGrant(b)
	})
}
