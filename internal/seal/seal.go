// Package seal holds the key ring and all that is sealed or authenticated
// under it: session cookies, session records, CSRF tokens and the cookies of
// login attempts.
//
// Per purpose there is one key, HKDF-SHA-256 of the ring key with the purpose
// and the relying party's identity (issuer and client ID) as info. So a cookie
// or a record of one relying party is noise to another, even when both share
// their keys and their store.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
	"time"

	"github.com/gorilla/securecookie"
)

// KeySize is the length of a ring key in bytes.
const KeySize = 32

// AttemptAge is how long a login attempt's cookie opens.
const AttemptAge = 15 * time.Minute

// A Ring is an ordered set of keys: the first seals, every key opens. A
// session stays under the key it was made with. It is safe for concurrent use.
type Ring struct {
	keys   []*key
	prefix []byte // in front of a secret when its record key is computed
}

type key struct {
	id      [4]byte
	cookie  macPool
	record  macPool
	csrf    macPool
	state   macPool
	tag     macPool
	meta    cipher.AEAD
	attempt *securecookie.SecureCookie
}

// NewRing derives the keys of one relying party from raw, each of KeySize
// bytes and no two alike.
func NewRing(raw [][]byte, issuer, clientID string) (*Ring, error) {
	r := &Ring{}
	identity := sha256.Sum256([]byte(issuer + "\x00" + clientID))
	r.prefix = append([]byte("bff session\x00"), identity[:]...)
	for i, ringKey := range raw {
		if len(ringKey) != KeySize { // check:ring-key-size
			return nil, fmt.Errorf("key %d has %d bytes, not %d", i, len(ringKey), KeySize)
		}
		derive := func(purpose string, n int) []byte {
			info := "bff " + purpose + "\x00" + issuer + "\x00" + clientID
			k, err := hkdf.Key(sha256.New, ringKey, nil, info, n)
			if err != nil {
				panic(err) // only for n > 255*32
			}
			return k
		}
		k := &key{
			id:     [4]byte(derive("key id", 4)),
			cookie: newMACPool(derive("cookie", 32)),
			record: newMACPool(derive("record", 32)),
			csrf:   newMACPool(derive("csrf", 32)),
			state:  newMACPool(derive("state", 32)),
			tag:    newMACPool(derive("tag", 32)),
		}
		block, err := aes.NewCipher(derive("meta", 32))
		if err != nil {
			return nil, err
		}
		if k.meta, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
		// Both keys, no gob, and 15 minutes instead of the default's 30 days.
		attempt := derive("attempt", 64)
		k.attempt = securecookie.New(attempt[:32], attempt[32:]).
			SetSerializer(securecookie.NopEncoder{}).
			MaxAge(int(AttemptAge / time.Second))
		for j, other := range r.keys {
			if other.id == k.id { // check:ring-key-twice
				return nil, fmt.Errorf("keys %d and %d are the same", j, i)
			}
		}
		r.keys = append(r.keys, k)
	}
	if len(r.keys) == 0 { // check:ring-empty
		return nil, errors.New("no keys")
	}
	return r, nil
}

// byID returns the key named id, or nil.
func (r *Ring) byID(id []byte) *key {
	for _, k := range r.keys {
		if string(k.id[:]) == string(id) {
			return k
		}
	}
	return nil
}

// A session cookie is base64url of
//
//	version 1 ‖ key ID 4 ‖ sign-in time 4 ‖ secret 32 ‖ MAC 16
const (
	cookieVersion = 1
	cookieBytes   = 1 + 4 + 4 + secretSize + macSize
	macSize       = 16
	secretSize    = 32

	// CookieLen is the length of every session cookie's value.
	CookieLen = cookieBytes / 3 * 4
)

var strict = base64.RawURLEncoding.Strict()

// An ID is a session ID: the secret in the session cookie, with the key it was
// made under. Its zero value is no session's.
type ID struct {
	ring     *Ring
	key      *key
	signedIn uint32
	secret   [secretSize]byte
}

// NewID returns a fresh session ID, for a sign-in at now.
func (r *Ring) NewID(now time.Time) ID {
	id := ID{ring: r, key: r.keys[0], signedIn: uint32(now.Unix())}
	rand.Read(id.secret[:]) // never fails: crypto/rand
	return id
}

// Opens reports whether the key of id is in the ring.
func (r *Ring) Opens(id *ID) bool { return r.byID(id.key.id[:]) != nil }

// Cookie returns the cookie value that carries id.
func (id *ID) Cookie() string {
	var b [cookieBytes]byte
	b[0] = cookieVersion
	copy(b[1:], id.key.id[:])
	binary.BigEndian.PutUint32(b[5:], id.signedIn)
	copy(b[9:], id.secret[:])
	id.key.cookie.sum(b[cookieBytes-macSize:], b[:cookieBytes-macSize])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// ParseCookie returns the session ID that value carries. It does no I/O: a
// forged cookie, or another relying party's, is refused here.
func (r *Ring) ParseCookie(value string) (ID, bool) {
	if len(value) != CookieLen { // check:cookie-length
		return ID{}, false
	}
	var text [CookieLen]byte
	copy(text[:], value)
	var b [cookieBytes]byte
	// Decode skips CR and LF, so the length is checked as well.
	if n, err := strict.Decode(b[:], text[:]); err != nil || n != cookieBytes {
		return ID{}, false
	}
	if b[0] != cookieVersion {
		return ID{}, false
	}
	k := r.byID(b[1:5])
	if k == nil {
		return ID{}, false
	}
	var mac [macSize]byte
	k.cookie.sum(mac[:], b[:cookieBytes-macSize])
	if subtle.ConstantTimeCompare(mac[:], b[cookieBytes-macSize:]) != 1 { // check:cookie-mac
		return ID{}, false
	}
	id := ID{ring: r, key: k, signedIn: binary.BigEndian.Uint32(b[5:])}
	copy(id.secret[:], b[9:])
	return id, true
}

// SignedIn returns the time of the sign-in, to the second. It is under the
// cookie's MAC, so it tells when a session that is gone must have ended.
func (id *ID) SignedIn() time.Time { return time.Unix(int64(id.signedIn), 0) }

// RecordKey returns the key of the session's record: all that a store sees.
func (id *ID) RecordKey() string {
	var b [128]byte
	in := append(append(b[:0], id.ring.prefix...), id.secret[:]...)
	digest := sha256.Sum256(in)
	var out [recordKeySize]byte
	out[0] = 's'
	base64.RawURLEncoding.Encode(out[1:], digest[:])
	return string(out[:])
}

// CSRFToken returns the token that proves a request to come from a page of
// this session.
func (id *ID) CSRFToken() string {
	var mac [32]byte
	id.key.csrf.sum(mac[:], id.secret[:])
	return base64.RawURLEncoding.EncodeToString(mac[:])
}

// ValidCSRFToken reports whether token is the session's, in constant time.
func (id *ID) ValidCSRFToken(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(id.CSRFToken())) == 1
}

// A sealed record is
//
//	version 1 ‖ key ID 4 ‖ nonce 12 ‖ length 4 each of all parts but the last ‖ parts
//
// Each part is sealed with AES-256-GCM under one key and the same nonce but
// for its last byte, which counts the parts; so parts of different writes
// can't be combined. Additional data is the record key and the number of parts.
const (
	recordVersion = 1
	recordHeader  = 1 + 4 + nonceSize
	recordKeySize = 1 + 43 // of a SHA-256 in base64url
	nonceSize     = 12
	tagSize       = 16
	maxParts      = 8
)

var errRecord = errors.New("record doesn't open")

// aead returns the cipher of the session's record. Its key comes from the ring
// and the session ID alike: the store and the server's keys together open
// nothing. This is HKDF with the session ID in the expand step (RFC 5869,
// section 2.3, T(1)), so that the extract step is done once per ring key
// instead of once per request.
func (id *ID) aead() (cipher.AEAD, error) {
	var in [secretSize + 1]byte
	copy(in[:], id.secret[:])
	in[secretSize] = 1
	var recordKey [32]byte
	id.key.record.sum(recordKey[:], in[:])
	block, err := aes.NewCipher(recordKey[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal returns the record value that holds parts. Each can be opened without
// the others, so that what every request needs stays small.
func (id *ID) Seal(parts ...[]byte) ([]byte, error) {
	if len(parts) == 0 || len(parts) > maxParts {
		return nil, fmt.Errorf("%d parts", len(parts))
	}
	aead, err := id.aead()
	if err != nil {
		return nil, err
	}
	size := recordHeader + 4*(len(parts)-1)
	for _, p := range parts {
		size += len(p) + tagSize
	}
	out := make([]byte, recordHeader, size)
	out[0] = recordVersion
	copy(out[1:], id.key.id[:])
	nonce := [nonceSize]byte(out[5:])
	rand.Read(nonce[:])
	nonce[nonceSize-1] = 0
	copy(out[5:], nonce[:])
	for _, p := range parts[:len(parts)-1] {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)+tagSize))
	}
	ad := additionalData(id.RecordKey(), len(parts))
	for i, p := range parts {
		nonce[nonceSize-1] = byte(i)
		out = aead.Seal(out, nonce[:], p, ad[:])
	}
	return out, nil
}

func additionalData(recordKey string, parts int) (ad [recordKeySize + 1]byte) {
	copy(ad[:], recordKey)
	ad[recordKeySize] = byte(parts)
	return ad
}

// A Record is a sealed record whose parts can be opened. It is safe for
// concurrent use.
type Record struct {
	aead  cipher.AEAD
	value []byte
	ad    [recordKeySize + 1]byte
	ends  [maxParts]int // of the parts, in value
	first int           // where they begin
}

// Open reads a sealed record of n parts. It opens none of them.
func (id *ID) Open(recordKey string, value []byte, n int) (rec Record, err error) {
	if n < 1 || n > maxParts || len(recordKey) != recordKeySize || len(value) < recordHeader+4*(n-1) ||
		value[0] != recordVersion || value[recordHeader-1] != 0 || string(value[1:5]) != string(id.key.id[:]) { // check:record-header
		return Record{}, errRecord
	}
	rec.first = recordHeader + 4*(n-1)
	end := rec.first
	for i := range n - 1 {
		size := uint64(binary.BigEndian.Uint32(value[recordHeader+4*i:]))
		if size > uint64(len(value)-end) { // check:record-length
			return Record{}, errRecord
		}
		end += int(size)
		rec.ends[i] = end
	}
	rec.ends[n-1] = len(value)
	rec.value, rec.ad = value, additionalData(recordKey, n)
	if rec.aead, err = id.aead(); err != nil {
		return Record{}, err
	}
	return rec, nil
}

// Part appends part i's plain text to dst. There must be as many parts.
func (r *Record) Part(dst []byte, i int) ([]byte, error) {
	begin, nonce := r.first, r.value[recordHeader-nonceSize:recordHeader] // its last byte is 0
	if i > 0 {
		begin, nonce = r.ends[i-1], bytes.Clone(nonce)
		nonce[nonceSize-1] = byte(i)
	}
	out, err := r.aead.Open(dst, nonce, r.value[begin:r.ends[i]], r.ad[:])
	if err != nil {
		return nil, errRecord
	}
	return out, nil
}

// SealAttempt seals value for the cookie called name.
func (r *Ring) SealAttempt(name string, value []byte) (string, error) {
	return r.keys[0].attempt.Encode(name, value)
}

// OpenAttempt opens what SealAttempt made for the same name within AttemptAge.
// spent maps a state to the key of the record that marks it spent.
func (r *Ring) OpenAttempt(name, sealed string) (value []byte, spent func(state string) string, ok bool) {
	for _, k := range r.keys {
		var plain []byte
		if k.attempt.Decode(name, sealed, &plain) == nil {
			return plain, k.spent, true
		}
	}
	return nil, nil, false
}

// spent returns the key of the record that marks state as spent.
func (k *key) spent(state string) string {
	var mac [32]byte
	k.state.sum(mac[:], []byte(state))
	return "a" + base64.RawURLEncoding.EncodeToString(mac[:])
}

// A macPool computes HMAC-SHA-256 under one key without allocating.
type macPool struct{ pool *sync.Pool }

type macState struct {
	mac hash.Hash
	in  [64]byte
	out [sha256.Size]byte
}

func newMACPool(key []byte) macPool {
	return macPool{&sync.Pool{New: func() any {
		return &macState{mac: hmac.New(sha256.New, key)}
	}}}
}

// sum fills dst, of at most 32 bytes, with the first bytes of the MAC of msg.
func (p macPool) sum(dst, msg []byte) {
	s := p.pool.Get().(*macState)
	defer p.pool.Put(s)
	s.mac.Reset()
	for len(msg) > 0 {
		n := copy(s.in[:], msg)
		s.mac.Write(s.in[:n])
		msg = msg[n:]
	}
	copy(dst, s.mac.Sum(s.out[:0]))
	clear(s.in[:])
	clear(s.out[:])
}
