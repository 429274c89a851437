package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// maxKeys bounds the work that a token without a key ID can cause.
const maxKeys = 50

// algorithms are all that a key of ours can verify. Which of them may sign an
// ID token is configuration, and go-oidc sees to it.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// A keySet holds the issuer's public keys that may verify signatures.
type keySet struct{ keys []jose.JSONWebKey }

// fetchKeys fetches the issuer's JSON Web Key Set (RFC 7517, section 5).
func (c *Client) fetchKeys(ctx context.Context) (*keySet, *Error) {
	meta, e := c.metadata.get(ctx)
	if e != nil {
		return nil, e
	}
	req, err := http.NewRequest(http.MethodGet, meta.JWKSURI, nil)
	if err != nil {
		return nil, &Error{Op: "keys", Kind: Unreachable, Err: plain(err)}
	}
	t, e := c.do(ctx, "keys", req)
	if e != nil {
		e.Kind = Unreachable
		return nil, e
	}
	if t.status != http.StatusOK { // check:keys-status
		return nil, &Error{Op: "keys", Kind: Unreachable, Status: t.status}
	}
	set, err := readKeys(t.body)
	if err != nil {
		return nil, &Error{Op: "keys", Kind: Unreachable, Err: err}
	}
	return set, nil
}

// readKeys keeps the keys that are fit for signatures. Others are no error: a
// set may hold keys for other uses, or of types yet to come.
func readKeys(body []byte) (*keySet, error) {
	m, err := members(body)
	if err != nil {
		return nil, err
	}
	var all []json.RawMessage
	if json.Unmarshal(m["keys"], &all) != nil {
		return nil, errors.New("keys is not an array")
	}
	if len(all) > maxKeys { // check:key-count
		return nil, errors.New("more than 50 keys")
	}
	set := new(keySet)
	for _, raw := range all {
		var key jose.JSONWebKey
		var more struct {
			Use string   `json:"use"`
			Ops []string `json:"key_ops"`
		}
		if json.Unmarshal(raw, &more) != nil || json.Unmarshal(raw, &key) != nil {
			continue
		}
		// A private key that was published is anybody's, and a symmetric one
		// says nothing about who signed.
		if !key.IsPublic() { // check:key-public
			continue
		}
		if !slices.Contains([]string{"", "sig"}, more.Use) { // check:key-use
			continue
		}
		if more.Ops != nil {
			if !slices.Contains(more.Ops, "verify") { // check:key-ops
				continue
			}
		}
		if rsaBits(key.Key) < 2048 { // check:key-size
			continue
		}
		set.keys = append(set.keys, key)
	}
	if len(set.keys) == 0 {
		return nil, errors.New("no key that can verify a signature")
	}
	return set, nil
}

// rsaBits returns the size of an RSA key. The other kinds have no size to choose.
func rsaBits(key any) int {
	if k, ok := key.(*rsa.PublicKey); ok {
		return k.N.BitLen()
	}
	return 1 << 20
}

// fits reports whether key is one for alg (RFC 7518, section 3.1). go-jose
// doesn't compare the curves.
func fits(key any, alg string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return alg[:2] == "RS" || alg[:2] == "PS"
	case *ecdsa.PublicKey:
		curves := map[string]string{"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
		return curves[alg] == k.Curve.Params().Name
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// suited returns the keys for a signature. Without a key ID that is every key
// of the right kind (OpenID Connect Core 1.0, section 10.1).
func (s *keySet) suited(kid, alg string) []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, key := range s.keys {
		if kid != "" {
			if key.KeyID != kid { // check:kid
				continue
			}
		}
		if !fits(key.Key, alg) { // check:key-fit
			continue
		}
		if !slices.Contains([]string{"", alg}, key.Algorithm) { // check:key-alg
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// A verification is an oidc.KeySet for one token. go-oidc flattens the errors
// of a KeySet to text, so it remembers why it failed.
type verification struct {
	keys    *published[keySet]
	asked   bool
	payload []byte
	failure *Error
}

var errNotVerified = errors.New("not verified")

func (v *verification) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	v.asked = true
	v.payload, v.failure = v.verify(ctx, token)
	if v.failure != nil {
		return nil, errNotVerified
	}
	return v.payload, nil
}

// verify looks for the key among ours only: what the header says of keys (jwk,
// jku, x5u, x5c) is the sender's word. When none is suited the issuer may have
// a new one, so the keys are fetched again, but not for every token.
func (v *verification) verify(ctx context.Context, token string) ([]byte, *Error) {
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, invalid("format")
	}
	header := jws.Signatures[0].Protected
	set, e := v.keys.get(ctx)
	for fresh := false; e == nil; set, fresh, e = v.keys.renew(ctx) {
		keys := set.suited(header.KeyID, header.Algorithm)
		for _, key := range keys {
			if payload, err := jws.Verify(key.Key); err == nil {
				return payload, nil
			}
		}
		if len(keys) > 0 && header.KeyID != "" {
			return nil, invalid("signature")
		}
		if fresh && len(keys) > 0 {
			return nil, invalid("signature")
		}
		if fresh {
			return nil, invalid("kid")
		}
	}
	return nil, e
}
