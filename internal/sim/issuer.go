package sim

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

const (
	issuerURL = "https://issuer.example"
	clientID  = "sim"
)

// An issuer is an OpenID provider that keeps account of every use of every
// refresh token. Its state is guarded by the world's lock.
type issuer struct {
	w         *world
	families  []*family // by user
	codes     map[string]code
	refresh   map[string]*refreshToken
	key       int // the generation that signs
	keysDown  time.Duration
	forgeNext map[int]bool // by user
}

type code struct {
	u     int
	nonce string
}

// A family is what one sign-in was granted, through all refreshes.
type family struct {
	u      int
	dead   string // why; empty: it lives
	tokens []*refreshToken
}

// A refreshToken is called rt0.3 if it is user 0's third.
type refreshToken struct {
	name   string
	family *family
	n      int
	issued time.Duration
	spent  bool
	stored time.Duration // since when it is or was in the store; 0: never
	uses   []*use        // all of them, refused ones too
}

// A use is one request that presents a refresh token.
type use struct {
	token    *refreshToken
	by       *replica
	at       time.Duration // the issuer saw it
	left     time.Duration // the replica sent it
	obtained time.Duration // the access token that was stored then
	claim    int           // the last one of the replica's in the record
	claimed  time.Duration // since when
	serves   time.Duration // until when the access token served that was stored then
	fate     string        // of the answer, if it didn't get back
	granted  *refreshToken // nil: refused
	returned time.Duration // the replica had the answer; 0: not yet
	forged   bool
	excuse   string // for one that should not have been made
}

// comesLate is the fate of a request that the issuer sees after its sender has
// given up, so that the next one may be there first.
const comesLate = "it comes late"

func newIssuer(w *world) *issuer {
	return &issuer{w: w, codes: map[string]code{}, refresh: map[string]*refreshToken{}, forgeNext: map[int]bool{}}
}

func signingKey(generation int) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = byte(generation)
	return ed25519.NewKeyFromSeed(seed)
}

// rotateKeys has a new key sign, which nobody can fetch for a while: the first
// time, since from the fifth failure on the library's jitter would decide when
// it asks again.
func (iss *issuer) rotateKeys(down time.Duration) {
	iss.w.lock(func() {
		iss.key++
		if iss.key > 1 {
			down = 0
			return
		}
		iss.keysDown = iss.w.now() + down
	})
	iss.w.event(nil, -1, "the issuer has a new key, and doesn't publish it for %v", down)
}

// idToken returns an ID token for user u.
func (iss *issuer) idToken(u int, nonce string, forged bool) string {
	now := time.Now()
	sub := fmt.Sprintf("user-%d", u)
	if forged {
		sub = "somebody-else"
	}
	claims := map[string]any{"iss": issuerURL, "aud": clientID, "sub": sub, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	b64 := base64.RawURLEncoding.EncodeToString
	body, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	iss.w.mu.Lock()
	generation := iss.key
	iss.w.mu.Unlock()
	jwt := b64(fmt.Appendf(nil, `{"alg":"EdDSA","kid":"k%d"}`, generation)) + "." + b64(body)
	return jwt + "." + b64(ed25519.Sign(signingKey(generation), []byte(jwt)))
}

// A wire is the issuer as one replica reaches it.
type wire struct{ r *replica }

var errBroken = errors.New("the connection broke")

func errRefused() error { return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED} }

// An answer is an HTTP answer.
type answer struct {
	status int
	body   string
}

func ok(v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return answer{http.StatusOK, string(body)}
}

func refusal(status int, code string) answer {
	return answer{status, fmt.Sprintf(`{"error":%q}`, code)}
}

func (t wire) RoundTrip(req *http.Request) (*http.Response, error) {
	var form url.Values
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		req.Body.Close()
		if err != nil {
			return nil, err
		}
		if form, err = url.ParseQuery(string(body)); err != nil {
			return nil, err
		}
	}
	a, err := t.serve(req.Context(), req.URL.Path, form, req.Header.Get("Authorization"))
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(a.body)),
		Body: io.NopCloser(strings.NewReader(a.body)),
	}, nil
}

// serve makes one request of the issuer: there, what it does, and back.
func (t wire) serve(ctx context.Context, path string, form url.Values, bearer string) (answer, error) {
	iss := t.r.w.iss
	switch path {
	case "/.well-known/openid-configuration":
		return t.call(ctx, opMeta, -1, arrives, func() (answer, string) {
			return ok(map[string]any{
				"issuer": issuerURL, "authorization_endpoint": issuerURL + "/authorize", "token_endpoint": issuerURL + "/token",
				"jwks_uri": issuerURL + "/keys", "userinfo_endpoint": issuerURL + "/userinfo", "revocation_endpoint": issuerURL + "/revoke",
				"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
				"id_token_signing_alg_values_supported": []string{"EdDSA"},
			}), "is published"
		})
	case "/keys":
		return t.keys(ctx)
	case "/userinfo":
		return t.userInfo(ctx, bearer)
	case "/revoke":
		return t.call(ctx, opRevoke, -1, arrives, func() (answer, string) { return iss.revoke(form.Get("token")) })
	case "/token":
		if form.Get("grant_type") == "authorization_code" {
			return t.call(ctx, opToken, -1, arrives, func() (answer, string) { return iss.redeem(form.Get("code")) })
		}
		return t.refresh(ctx, form.Get("refresh_token"))
	}
	return answer{http.StatusNotFound, ""}, nil
}

// call makes one request with a known fate.
func (t wire) call(ctx context.Context, o op, u int, f fate, do func() (answer, string)) (a answer, err error) {
	r, w := t.r, t.r.w
	in := r.lane(u, o)
	time.Sleep(w.aim(0, in))
	l := w.luck(r.id, int(o), u)
	trip := w.wire
	if w.stormy() {
		trip = w.stormWire
	}
	there, back := trip.draw(&l), trip.draw(&l)
	effect := func() {
		var text string
		a, text = do()
		w.event(r, u, "%v %s", o, text)
		w.reach(r, u, o, done)
	}
	w.reach(r, u, o, sent)
	if !r.pass(&l, in) {
		return a, errDead
	}
	if f != arrives {
		w.event(r, u, "%v %v", o, f)
	}
	if ctx.Err() != nil && l.chance(0.5) {
		// Stopped for long between the last look at ctx and the request: it
		// may go out nevertheless.
		return a, ctx.Err()
	}
	if f == late {
		time.AfterFunc(10*time.Second+there+time.Duration(l.n(int(5*time.Second))), effect)
	}
	err = r.travel(context.WithoutCancel(ctx), there, in)
	if r.isDead() {
		if f == arrives && l.chance(0.5) { // it was on its way already
			time.AfterFunc(w.aim(there, in), effect)
		}
		r.pass(&l, in)
		return a, errDead
	}
	switch f {
	case arrives:
		effect()
		err = r.travel(ctx, back, in)
	case refused:
		err = errRefused()
	case unclear:
		effect()
		if err = r.travel(ctx, back, in); err == nil {
			err = errBroken
		}
	case deaf:
		effect()
		err = r.travel(ctx, time.Minute, in)
	case vanishes, late:
		err = r.travel(ctx, time.Minute, in)
	}
	w.reach(r, u, o, answered)
	if !r.pass(&l, in) {
		return a, errDead
	}
	return a, err
}

// keys answers with the public keys. While they can't be had it says so at
// once: the library's next attempt is then at a time that its jitter does not
// decide.
func (t wire) keys(ctx context.Context) (answer, error) {
	r, w := t.r, t.r.w
	w.mu.Lock()
	down, generation := w.now() < w.iss.keysDown, w.iss.key
	w.mu.Unlock()
	if down {
		w.event(r, -1, "keys can't be had")
		return answer{http.StatusServiceUnavailable, ""}, nil
	}
	return t.call(ctx, opKeys, -1, arrives, func() (answer, string) {
		var keys []any
		for i := range generation + 1 {
			pub := signingKey(i).Public().(ed25519.PublicKey)
			keys = append(keys, map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": fmt.Sprintf("k%d", i), "x": base64.RawURLEncoding.EncodeToString(pub)})
		}
		return ok(map[string]any{"keys": keys}), fmt.Sprintf("are %d", len(keys))
	})
}

func (t wire) userInfo(ctx context.Context, bearer string) (answer, error) {
	r, w := t.r, t.r.w
	var u, n int
	if _, err := fmt.Sscanf(bearer, "Bearer at%d.%d", &u, &n); err != nil {
		return refusal(http.StatusUnauthorized, "invalid_token"), nil
	}
	l := w.luck(r.id, int(opUserInfo), u, -1)
	f, fails := arrives, false
	if w.kinds[lateValidation] && w.stormy() && l.chance(2*w.trouble) {
		switch l.n(3) {
		case 0:
			f = refused
		case 1:
			f = vanishes
		case 2:
			fails = true
		}
	}
	return t.call(ctx, opUserInfo, u, f, func() (answer, string) {
		if fails {
			return answer{http.StatusServiceUnavailable, ""}, "is unavailable"
		}
		return ok(map[string]any{"sub": fmt.Sprintf("user-%d", u)}), "answers"
	})
}

// redeem answers the token request of a sign-in.
func (iss *issuer) redeem(name string) (answer, string) {
	iss.w.mu.Lock()
	c, known := iss.codes[name]
	delete(iss.codes, name)
	if !known {
		iss.w.mu.Unlock()
		return refusal(http.StatusBadRequest, "invalid_grant"), "refuses a code"
	}
	f := &family{u: c.u}
	if c.u >= 0 {
		iss.families[c.u] = f
	}
	rt := iss.grow(f)
	rt.stored = iss.w.now()
	iss.w.mu.Unlock()
	return ok(map[string]any{
		"access_token": accessName(rt), "token_type": "Bearer", "expires_in": int(iss.w.life / time.Second),
		"refresh_token": rt.name, "id_token": iss.idToken(c.u, c.nonce, false),
	}), "signs in"
}

// grow adds a refresh token to a family. The world is locked.
func (iss *issuer) grow(f *family) *refreshToken {
	rt := &refreshToken{family: f, n: len(f.tokens) + 1, issued: iss.w.now()}
	rt.name = fmt.Sprintf("rt%d.%d", f.u, rt.n)
	f.tokens = append(f.tokens, rt)
	iss.refresh[rt.name] = rt
	return rt
}

// accessName returns the name of the access token that came with rt, or, where
// there is no rotation, with the last use of it.
func accessName(rt *refreshToken) string {
	return fmt.Sprintf("at%d.%d", rt.family.u, rt.n+len(rt.uses))
}

// refresh is a token request of a session that is refreshed.
func (t wire) refresh(ctx context.Context, name string) (answer, error) {
	r, w := t.r, t.r.w
	iss := w.iss
	w.mu.Lock()
	rt := iss.refresh[name]
	w.mu.Unlock()
	if rt == nil {
		w.fail("replica %d presents %q, which was never issued", r.id, name)
		return refusal(http.StatusBadRequest, "invalid_grant"), nil
	}
	u := rt.family.u
	l := w.luck(r.id, int(opToken), u, -1)
	f, instead := arrives, (*answer)(nil) // what is answered without a look at the request
	behind := (*answer)(nil)              // what is made of the answer on the way back
	if w.stormy() {
		f, instead, behind = w.grantFate(&l)
	}
	x := &use{token: rt, by: r, left: w.now()}
	w.lock(func() {
		c := w.records[w.sessions[u].key]
		x.claim, x.claimed = r.claims[u].n, r.claims[u].since
		x.obtained, x.serves = c.now().state.obtained, c.now().state.expiry
		switch f {
		case unclear, deaf:
			x.fate = "its answer is lost"
		case late:
			x.fate = comesLate
		}
		if instead != nil && (instead.body == "" || strings.Contains(instead.body, "invalid_request") || strings.Contains(instead.body, "new_code")) && instead.status/100 == 4 {
			w.sessions[u].refused++
		}
	})
	a, err := t.call(ctx, opToken, u, f, func() (answer, string) {
		if instead != nil {
			return *instead, fmt.Sprintf("of %s is answered %d %s", name, instead.status, instead.body)
		}
		a, text := iss.use(x)
		if behind != nil && a.status == http.StatusOK {
			b := *behind
			if b.body == keepsToken {
				b.body = fmt.Sprintf(`{"token_type":"Bearer","refresh_token":%q}`, x.granted.name)
			} else {
				w.lock(func() { x.fate = "its answer is unusable" })
			}
			return b, text + fmt.Sprintf(", but answers %d %s", b.status, b.body)
		}
		return a, text
	})
	w.lock(func() {
		switch {
		case err == nil:
			x.returned = w.now()
		case x.at != 0 && !r.killed:
			x.fate = "its answer is lost"
		}
	})
	return a, err
}

// keepsToken stands for a malformed answer from which the refresh token can
// be read.
const keepsToken = "keeps the token"

// grantFate draws what becomes of a token request.
func (w *world) grantFate(l *luck) (f fate, instead, behind *answer) {
	p := w.trouble
	if w.kinds[grantFaults] && l.chance(p) {
		switch l.n(5) {
		case 0:
			statuses := []int{500, 503, 503, 429}
			return arrives, &answer{statuses[l.n(4)], ""}, nil
		case 1:
			statuses := []int{500, 502, 504, 200}
			return arrives, nil, &answer{statuses[l.n(4)], "<html>"}
		}
		return fate(1 + l.n(int(late))), nil, nil
	}
	if w.kinds[vagueRefusals] && l.chance(max(0.3, p)) {
		vague := []answer{refusal(400, "invalid_request"), refusal(401, "new_code"), {400, ""}, refusal(401, "invalid_client"), refusal(400, "temporarily_unavailable")}
		return arrives, &vague[l.n(len(vague))], nil
	}
	if w.kinds[lateValidation] && l.chance(p) {
		return arrives, nil, &answer{200, keepsToken}
	}
	return arrives, nil, nil
}

// use is what the issuer makes of a refresh token that is presented to it.
func (iss *issuer) use(x *use) (answer, string) {
	w, rt := iss.w, x.token
	f := rt.family
	w.mu.Lock()
	x.at = w.now()
	w.judge(x)
	rt.uses = append(rt.uses, x)
	w.res.Counts.TokenRequests++
	again := rt.spent
	why := f.dead
	if why == "" && again && w.reuse == endsGrant {
		f.dead = "reuse of " + rt.name
	}
	if why == "" && again {
		why = "it was used before"
	}
	if why != "" {
		w.mu.Unlock()
		return refusal(http.StatusBadRequest, "invalid_grant"), fmt.Sprintf("refuses %s: %s", rt.name, why)
	}
	next := rt
	if w.reuse != isWelcome {
		rt.spent = true
		next = iss.grow(f)
	}
	x.granted = next
	x.forged = iss.forgeNext[f.u]
	delete(iss.forgeNext, f.u)
	access := accessName(next)
	w.mu.Unlock()
	m := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": int(w.life / time.Second)}
	if next != rt {
		m["refresh_token"] = next.name
	}
	if w.idToken || x.forged {
		m["id_token"] = iss.idToken(f.u, "", x.forged)
	}
	return ok(m), fmt.Sprintf("spends %s for %s and %s", rt.name, next.name, access)
}

// revoke is the revocation endpoint: the family of a refresh token ends.
func (iss *issuer) revoke(token string) (answer, string) {
	w := iss.w
	w.mu.Lock()
	defer w.mu.Unlock()
	rt := iss.refresh[token]
	if rt == nil {
		return answer{http.StatusOK, ""}, "of " + token
	}
	w.revoked(rt)
	if rt.family.dead == "" {
		rt.family.dead = "revoked by the client"
	}
	return answer{http.StatusOK, ""}, "ends the family of " + token
}
