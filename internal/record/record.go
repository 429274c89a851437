// Package record encodes what a session record holds: by hand, since JSON and
// gob cost ten times as much and every request pays.
package record

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// The parts of a sealed record, by how often they are needed.
const (
	PartHead   = iota // on every request
	PartAccess        // by the proxy: the access token
	PartClaims        // by handlers that ask
	PartGrant         // by refresh and sign-out
	PartTokens        // by upstreams that get tokens of their own
	Parts
)

// A Head is what every request needs to know of a session.
type Head struct {
	Subject  string
	SID      string // the provider's session
	ACR      string
	End      time.Time // no request extends the session past it
	AuthTime time.Time // zero: the issuer didn't say
	Groups   []string

	AccessExpiry   time.Time // of the access token
	AccessObtained time.Time // when the issuer answered with it
	Renewable      bool      // there is a refresh token

	// TokenID changes with every token response that was stored, so that the
	// writer of one can tell whether its write arrived even where the issuer
	// doesn't rotate.
	TokenID [8]byte

	Claim   Claim
	Failure Failure
}

// A Claim is the right to spend the refresh token: whoever replaced the record
// by one that holds its claim has it, for Length by every observer's own clock.
type Claim struct {
	Holder [8]byte // zero: nobody
	Length time.Duration

	// Contested says that an earlier holder may have spent the refresh token
	// too, and may yet store what it got for it.
	Contested bool
}

// Held reports whether somebody holds the claim.
func (c Claim) Held() bool { return c.Holder != [8]byte{} }

// A Failure is the memory of attempts to refresh that failed since the last
// one that succeeded, shared by the fleet.
type Failure struct {
	Count      uint32
	NotBefore  time.Time // no further attempt before it
	Doubts     uint32    // refusals that don't name the grant, 30 s or more apart
	FirstDoubt time.Time
}

// Claims is what handlers may ask about the user.
type Claims struct {
	JSON   []byte // a JSON object
	Values []Pair // set by the application at sign-in
}

// A Pair is a named value.
type Pair struct{ Name, Value string }

// A Grant is what the issuer gave, but for the access token.
type Grant struct {
	RefreshToken string
	IDToken      string // the last one, for id_token_hint

	// AtUserInfo are the claims that userinfo had when that ID token came. From
	// then on userinfo is asked for them alone.
	AtUserInfo []string

	// Of the ID token of the sign-in (OpenID Connect Core 1.0, section 12.2).
	Nonce           string
	Audience        []string
	AuthorizedParty string
	IssuedAt        time.Time
	AuthTime        time.Time
}

// Tokens are access tokens besides the session's own, for some upstreams.
type Tokens []Token

// A Token is one of them, or the memory that it was refused.
type Token struct {
	Name      string
	Token     string
	Obtained  time.Time
	Expiry    time.Time
	NotBefore time.Time // no further attempt before it
}

// An Attempt is what a login attempt's cookie holds. State, nonce and code
// verifier are derived from Secret.
type Attempt struct {
	Secret    [32]byte
	Began     time.Time // to the second
	ReturnURL string

	// What the login asked for, so that the answer can be held to it.
	MaxAge    time.Duration // negative: nothing
	ACRValues string        // separated by spaces
	Subject   string        // who asked, if somebody was signed in and steps up
}

// A Note is what is known of a session without its cookie, where it is filed
// under a tag.
type Note struct {
	Created  time.Time
	IssuedAt time.Time // of the ID token of the sign-in
	Device   string    // coarse: a browser and a system
	Subject  [16]byte  // of the subject's tag
	HasSID   bool      // it is filed under the issuer's session, too
}

const version = 1

var errCorrupt = errors.New("record is corrupt")

// Append appends the encoding of h to b.
func (h *Head) Append(b []byte) []byte {
	b = append(b, version)
	b = appendString(b, h.Subject)
	b = appendString(b, h.SID)
	b = appendString(b, h.ACR)
	b = appendTime(b, h.End)
	b = appendTime(b, h.AuthTime)
	b = appendStrings(b, h.Groups)
	b = appendTime(b, h.AccessExpiry)
	b = appendTime(b, h.AccessObtained)
	b = appendBool(b, h.Renewable)
	b = append(b, h.TokenID[:]...)
	b = append(b, h.Claim.Holder[:]...)
	b = binary.AppendVarint(b, int64(h.Claim.Length/time.Millisecond))
	b = appendBool(b, h.Claim.Contested)
	b = binary.AppendUvarint(b, uint64(h.Failure.Count))
	b = appendTime(b, h.Failure.NotBefore)
	b = binary.AppendUvarint(b, uint64(h.Failure.Doubts))
	return appendTime(b, h.Failure.FirstDoubt)
}

// ParseHead decodes what Append encoded.
func ParseHead(b []byte) (Head, error) {
	d := newDecoder(b)
	h := Head{
		Subject:        d.string(),
		SID:            d.string(),
		ACR:            d.string(),
		End:            d.time(),
		AuthTime:       d.time(),
		Groups:         d.strings(),
		AccessExpiry:   d.time(),
		AccessObtained: d.time(),
		Renewable:      d.bool(),
		TokenID:        d.id(),
		Claim: Claim{
			Holder:    d.id(),
			Length:    d.duration(time.Millisecond),
			Contested: d.bool(),
		},
		Failure: Failure{
			Count:      uint32(d.uvarint()),
			NotBefore:  d.time(),
			Doubts:     uint32(d.uvarint()),
			FirstDoubt: d.time(),
		},
	}
	return h, d.end()
}

// Append appends the encoding of c to b.
func (c *Claims) Append(b []byte) []byte {
	b = append(b, version)
	b = appendString(b, string(c.JSON))
	b = binary.AppendUvarint(b, uint64(len(c.Values)))
	for _, p := range c.Values {
		b = appendString(appendString(b, p.Name), p.Value)
	}
	return b
}

// ParseClaims decodes what Append encoded.
func ParseClaims(b []byte) (Claims, error) {
	d := newDecoder(b)
	c := Claims{JSON: []byte(d.string())}
	for range d.count() {
		c.Values = append(c.Values, Pair{d.string(), d.string()})
	}
	return c, d.end()
}

// Append appends the encoding of g to b.
func (g *Grant) Append(b []byte) []byte {
	b = append(b, version)
	b = appendString(b, g.RefreshToken)
	b = appendString(b, g.IDToken)
	b = appendStrings(b, g.AtUserInfo)
	b = appendString(b, g.Nonce)
	b = appendStrings(b, g.Audience)
	b = appendString(b, g.AuthorizedParty)
	b = appendTime(b, g.IssuedAt)
	return appendTime(b, g.AuthTime)
}

// ParseGrant decodes what Append encoded.
func ParseGrant(b []byte) (Grant, error) {
	d := newDecoder(b)
	g := Grant{
		RefreshToken:    d.string(),
		IDToken:         d.string(),
		AtUserInfo:      d.strings(),
		Nonce:           d.string(),
		Audience:        d.strings(),
		AuthorizedParty: d.string(),
		IssuedAt:        d.time(),
		AuthTime:        d.time(),
	}
	return g, d.end()
}

// Append appends the encoding of t to b.
func (t Tokens) Append(b []byte) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(t)))
	for _, x := range t {
		b = appendString(appendString(b, x.Name), x.Token)
		b = appendTime(appendTime(appendTime(b, x.Obtained), x.Expiry), x.NotBefore)
	}
	return b
}

// ParseTokens decodes what Append encoded.
func ParseTokens(b []byte) (Tokens, error) {
	d := newDecoder(b)
	var t Tokens
	for range d.count() {
		t = append(t, Token{Name: d.string(), Token: d.string(), Obtained: d.time(), Expiry: d.time(), NotBefore: d.time()})
	}
	return t, d.end()
}

// Append appends the encoding of a to b.
func (a *Attempt) Append(b []byte) []byte {
	b = append(b, version)
	b = append(b, a.Secret[:]...)
	b = appendTime(b, a.Began)
	b = appendString(b, a.ReturnURL)
	b = binary.AppendVarint(b, int64(a.MaxAge/time.Second))
	b = appendString(b, a.ACRValues)
	return appendString(b, a.Subject)
}

// ParseAttempt decodes what Append encoded.
func ParseAttempt(b []byte) (Attempt, error) {
	d := newDecoder(b)
	var a Attempt
	copy(a.Secret[:], d.take(len(a.Secret)))
	a.Began = d.time()
	a.ReturnURL = d.string()
	a.MaxAge = d.duration(time.Second)
	a.ACRValues = d.string()
	a.Subject = d.string()
	return a, d.end()
}

// Append appends the encoding of n to b.
func (n *Note) Append(b []byte) []byte {
	b = append(b, version)
	b = appendTime(b, n.Created)
	b = appendTime(b, n.IssuedAt)
	b = appendString(b, n.Device)
	b = append(b, n.Subject[:]...)
	return appendBool(b, n.HasSID)
}

// ParseNote decodes what Append encoded.
func ParseNote(b []byte) (Note, error) {
	d := newDecoder(b)
	n := Note{Created: d.time(), IssuedAt: d.time(), Device: d.string()}
	copy(n.Subject[:], d.take(len(n.Subject)))
	n.HasSID = d.bool()
	return n, d.end()
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendTime appends t in milliseconds since 1970; zero is the zero Time.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMilli())
}

// A decoder reads one encoding. After a fault it yields zero values, and end
// reports it. Its strings share one copy of the input.
type decoder struct {
	bytes []byte
	text  string // the same
	at    int    // what is next
	bad   bool
}

func newDecoder(b []byte) *decoder {
	d := &decoder{bytes: b, text: string(b)}
	if got := d.take(1); got == "" || got[0] != version {
		d.bad = true
	}
	return d
}

func (d *decoder) end() error {
	if d.bad || d.at != len(d.text) {
		return errCorrupt
	}
	return nil
}

// take reads the next n bytes.
func (d *decoder) take(n int) string {
	if d.bad || n > len(d.text)-d.at {
		d.bad = true
		return ""
	}
	s := d.text[d.at : d.at+n]
	d.at += n
	return s
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.bytes[d.at:])
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.at += n
	return v
}

// count reads the number of elements of a list, each of at least one byte.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.text)-d.at) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) string() string { return d.take(d.count()) }

func (d *decoder) strings() []string {
	n := d.count()
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.string()
	}
	return list
}

func (d *decoder) bool() bool { return d.take(1) == "\x01" }

func (d *decoder) id() (id [8]byte) {
	copy(id[:], d.take(8))
	return id
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.bytes[d.at:])
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.at += n
	return v
}

func (d *decoder) duration(unit time.Duration) time.Duration {
	n := d.varint()
	if most := int64(math.MaxInt64 / unit); n > most || n < -most {
		d.bad = true
		return 0
	}
	return time.Duration(n) * unit
}

func (d *decoder) time() time.Time {
	ms := d.varint()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
