package bfftest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	_ "crypto/sha512" // for RS512 and its like
)

// A Key signs tokens. Its fields can be set to anything before it is used: a
// key whose Alg was changed to RS512 signs with RS512.
type Key struct {
	Alg string // RFC 7518, section 3.1, or EdDSA; anything unknown signs with nothing
	ID  string // the kid

	private crypto.Signer
	secret  []byte
}

// NewKey makes a key for one of the RS, PS and ES algorithms or EdDSA. An RSA
// key has 2048 bits. With "none" and its like it returns a key that leaves
// signatures empty.
func NewKey(alg string) Key {
	switch {
	case strings.HasPrefix(alg, "RS"), strings.HasPrefix(alg, "PS"):
		return NewRSAKey(alg, 2048)
	case strings.HasPrefix(alg, "ES"):
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
		if curve == nil {
			panic("bfftest: no such algorithm: " + alg)
		}
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		return newKey(alg, k, err)
	case alg == "EdDSA":
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return newKey(alg, k, err)
	}
	return Key{Alg: alg}
}

// NewRSAKey makes an RSA key of the given size, of 1024 bits or more.
func NewRSAKey(alg string, bits int) Key {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	return newKey(alg, k, err)
}

// HMACKey returns a key for HS256, HS384 or HS512. It has no ID, so that a
// token keeps the kid of the key that it pretends to be signed with.
func HMACKey(alg string, secret []byte) Key { return Key{Alg: alg, secret: secret} }

func newKey(alg string, private crypto.Signer, err error) Key {
	if err != nil {
		panic("bfftest: " + err.Error())
	}
	k := Key{Alg: alg, private: private}
	sum := sha256.Sum256(k.PublicDER())
	k.ID = base64.RawURLEncoding.EncodeToString(sum[:9])
	return k
}

// PublicDER returns the public key as a PKIX structure, and PublicPEM the same
// in PEM: the secrets of the attack that verifies HS256 with a public key.
func (k Key) PublicDER() []byte {
	if k.private == nil {
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		panic("bfftest: " + err.Error())
	}
	return der
}

// PublicPEM returns the public key in PEM.
func (k Key) PublicPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.PublicDER()})
}

// JWK returns the public key as RFC 7517 says; for an HMAC key the secret.
func (k Key) JWK() map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	jwk := map[string]any{"use": "sig", "alg": k.Alg}
	if k.ID != "" {
		jwk["kid"] = k.ID
	}
	if k.private == nil {
		jwk["kty"], jwk["k"] = "oct", b64(k.secret)
		return jwk
	}
	switch pub := k.private.Public().(type) {
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4 || x || y
		if err != nil {
			panic("bfftest: " + err.Error())
		}
		half := (len(point) - 1) / 2
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC", pub.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		jwk["kty"], jwk["crv"], jwk["x"] = "OKP", "Ed25519", b64(pub)
	}
	return jwk
}

var hashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

// halfHash returns what at_hash says of token if k signs (OpenID Connect Core
// 1.0, section 3.1.3.6).
func (k Key) halfHash(token string) string {
	hash := crypto.SHA512 // Ed25519's
	if h, ok := hashes[k.Alg[min(2, len(k.Alg)):]]; ok {
		hash = h
	}
	h := hash.New()
	h.Write([]byte(token))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:hash.Size()/2])
}

// sign returns the signature of input, empty if the algorithm is unknown.
func (k Key) sign(input string) []byte {
	if len(k.Alg) < 5 {
		return nil
	}
	hash, ok := hashes[k.Alg[2:]]
	if k.Alg == "EdDSA" {
		hash, ok = 0, true
	}
	if !ok {
		return nil
	}
	if k.Alg[:2] == "HS" {
		mac := hmac.New(hash.New, k.secret)
		mac.Write([]byte(input))
		return mac.Sum(nil)
	}
	digest := []byte(input)
	if hash != 0 {
		h := hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	var sig []byte
	var err error
	switch key := k.private.(type) {
	case *rsa.PrivateKey:
		if k.Alg[:2] == "PS" {
			sig, err = rsa.SignPSS(rand.Reader, key, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(nil, key, hash, digest)
		}
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, key, digest)
		err = e
		if e == nil { // RFC 7518, section 3.4: both halves have the curve's size
			size := (key.Params().BitSize + 7) / 8
			sig = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, digest)
	default:
		err = fmt.Errorf("the key has no private half for %s", k.Alg)
	}
	if err != nil {
		panic("bfftest: " + err.Error())
	}
	return sig
}

// A Token is a JWT that is about to be signed. The functions of a [Fault] may
// change all of it.
type Token struct {
	Header map[string]any
	Claims map[string]any

	// EditClaimsJSON, if not nil, replaces the claims as they will be signed:
	// for duplicate names, bombs, and what is no JSON at all.
	EditClaimsJSON func([]byte) []byte

	// EditJWT, if not nil, replaces the finished token.
	EditJWT func(string) string

	key Key
}

// SignWith has k sign the token, and its alg and kid put in the header. What
// is set in Header afterwards stays, and does not change how it is signed.
func (t *Token) SignWith(k Key) {
	t.key = k
	t.Header["alg"] = k.Alg
	if k.ID != "" {
		t.Header["kid"] = k.ID
	}
}

// Sign returns the token.
func (t *Token) Sign() string {
	header, err := json.Marshal(t.Header)
	if err != nil {
		panic("bfftest: a token's header: " + err.Error())
	}
	claims, err := json.Marshal(t.Claims)
	if err != nil {
		panic("bfftest: a token's claims: " + err.Error())
	}
	if t.EditClaimsJSON != nil {
		claims = t.EditClaimsJSON(claims)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	jwt := b64(header) + "." + b64(claims)
	jwt += "." + b64(t.key.sign(jwt))
	if t.EditJWT != nil {
		jwt = t.EditJWT(jwt)
	}
	return jwt
}

// TamperSignature changes one bit of a JWT's signature, for [Token.EditJWT].
func TamperSignature(jwt string) string {
	i := strings.LastIndexByte(jwt, '.')
	sig, err := base64.RawURLEncoding.DecodeString(jwt[i+1:])
	if err != nil || len(sig) == 0 {
		return jwt + "AAAA"
	}
	sig[0] ^= 1
	return jwt[:i+1] + base64.RawURLEncoding.EncodeToString(sig)
}

// newToken returns a token of the issuer, with its key and claims. The caller
// must not hold mu.
func (iss *Issuer) newToken(typ string, claims map[string]any) *Token {
	t := &Token{Header: map[string]any{"typ": typ}, Claims: claims}
	t.SignWith(iss.Key())
	return t
}

// Key returns the key that signs tokens at present.
func (iss *Issuer) Key() Key { return iss.allKeys()[0] }

// UseKey has k sign tokens from now on. It is published beside the others.
func (iss *Issuer) UseKey(k Key) {
	old := iss.allKeys()
	iss.mu.Lock()
	defer iss.mu.Unlock()
	iss.keys = append([]Key{k}, old...)
}

// RotateKeys has a new key sign tokens from now on. The older ones stay
// published.
func (iss *Issuer) RotateKeys() {
	n := len(iss.allKeys())
	iss.UseKey(keyOf(iss.URL(), n))
}

func (iss *Issuer) allKeys() []Key {
	url := iss.URL()
	iss.mu.Lock()
	defer iss.mu.Unlock()
	if iss.keys == nil {
		iss.keys = []Key{keyOf(url, 0)}
	}
	return slices.Clone(iss.keys)
}

// issuerKeys holds the RSA keys of this process. They are slow to make, and a
// test suite makes hundreds of issuers: one with the URL of an earlier one has
// the same keys, as if it had been restarted.
var issuerKeys sync.Map // of func() Key, by issuer and generation

func keyOf(issuer string, generation int) Key {
	made, _ := issuerKeys.LoadOrStore(issuer+" "+strconv.Itoa(generation), sync.OnceValue(func() Key { return NewKey("RS256") }))
	return made.(func() Key)()
}

// serveJWKS answers with the public keys (RFC 7517, section 5).
func (iss *Issuer) serveJWKS(x *exchange) {
	keys := []any{}
	for _, k := range iss.allKeys() {
		keys = append(keys, k.JWK())
	}
	x.json(http.StatusOK, map[string]any{"keys": keys})
}
