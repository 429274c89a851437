package bff

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/agglestone/bff/internal/issuer"
	"github.com/agglestone/bff/internal/record"
	"github.com/agglestone/bff/internal/seal"
)

// What this file promises: a token that is had for the session's own, for
// another resource, say, is asked for once by the whole fleet, under the same
// claim as every refresh. So no two requests ever present the refresh token at
// the same time, and what the issuer rotates is stored before anything else is
// asked for. The tokens rest in the session's record, sealed like the rest.

// A Grant says how to get an access token for a session besides its own.
// Package tokens makes the usual ones.
type Grant struct {
	// Name names the token in the session: 1 to 64 bytes. Two grants of one
	// name must ask for the same token.
	Name string

	// Params are parameters of the token request, such as scope or resource.
	// They can't be the protocol's own.
	Params url.Values

	// Exchange asks for the token by token exchange (RFC 8693) with the
	// session's access token as the subject, instead of by a refresh (RFC 6749,
	// section 6).
	Exchange bool
}

// maxGrants bounds the tokens that a session holds besides its own.
const maxGrants = 16

// grantPause is how long a token that the issuer refused is not asked for.
const grantPause = 30 * time.Second

const (
	grantTypeExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken   = "urn:ietf:params:oauth:token-type:access_token"
)

// Validate reports what is wrong with g.
func (g Grant) Validate() error {
	if len(g.Name) == 0 || len(g.Name) > 64 {
		return fmt.Errorf("bff: Grant.Name has %d bytes, not 1 to 64", len(g.Name))
	}
	for name := range g.Params {
		if slices.Contains([]string{
			"grant_type", "refresh_token", "client_id", "client_secret", "client_assertion", "client_assertion_type",
			"subject_token", "subject_token_type", "actor_token", "actor_token_type",
		}, name) {
			return fmt.Errorf("bff: Grant.Params: %s is the protocol's own parameter", name)
		}
	}
	return nil
}

// GrantToken returns a live access token by g, asked for if need be. It is for
// a [TokenSource]: the token must go nowhere but to what it was asked for.
// refused is empty, or a token of g that was not accepted: then another is
// asked for, unless the refused one is younger than 30 seconds. It fails as
// [Session.AccessToken] does, and with issuer_error if the issuer refuses g,
// which leaves the session as it is.
func (s *Session) GrantToken(ctx context.Context, g Grant, refused Secret) (Secret, error) {
	if s == nil {
		return "", newProblem(NoSession, ErrNoSession)
	}
	if err := g.Validate(); err != nil {
		return "", err
	}
	token, problem := s.b.grantToken(ctx, s, g, refused)
	if problem != nil {
		return "", problem
	}
	return token, nil
}

func (b *BFF) grantToken(ctx context.Context, s *Session, g Grant, refused Secret) (Secret, *Problem) {
	// The session's own token is the subject of an exchange, and its refresh
	// tells whether the session is still good (D13).
	if problem := b.keepFresh(ctx, s, time.Now()); problem != nil {
		return "", problem
	}
	t, err := s.record().tokens()
	if err != nil {
		return "", newProblem(StoreUnavailable, err)
	}
	var stale time.Time
	if x := find(t, g.Name); x != nil && time.Now().Before(x.Expiry) {
		if refused == "" || x.Token != refused.Reveal() || time.Since(x.Obtained) < replayAfter {
			return Secret(x.Token), nil
		}
		stale = x.Obtained
	}
	f := b.fly(ctx, s, stale, &g)
	if problem := b.waitFor(ctx, s, f); problem != nil {
		return "", problem
	}
	if t, err = s.record().tokens(); err != nil {
		return "", newProblem(StoreUnavailable, err)
	}
	x := find(t, g.Name)
	if x == nil || !time.Now().Before(x.Expiry) {
		return "", newProblem(IssuerUnavailable, errors.New("the token has expired already"))
	}
	return Secret(x.Token), nil
}

func find(t record.Tokens, name string) *record.Token {
	for i := range t {
		if t[i].Name == name {
			return &t[i]
		}
	}
	return nil
}

// with returns t with x in it. If there are too many, those that expire first
// go: whoever wants one asks again.
func with(t record.Tokens, x record.Token) record.Tokens {
	now := time.Now()
	t = slices.DeleteFunc(slices.Clone(t), func(old record.Token) bool {
		return old.Name == x.Name || !now.Before(old.Expiry) && !now.Before(old.NotBefore)
	})
	slices.SortFunc(t, func(a, b record.Token) int { return b.Expiry.Compare(a.Expiry) })
	return append(t[:min(len(t), maxGrants-1)], x)
}

// settled reports whether rec holds the token that is wanted, and why it must
// not be asked for now, if there is such a reason.
func (r *refresher) settled(rec *loaded) (done bool, problem *Problem) {
	t, err := rec.tokens()
	if err != nil {
		return false, newProblem(StoreUnavailable, err)
	}
	x := find(t, r.want.Name)
	switch now := time.Now(); {
	case x == nil:
		return false, nil
	case x.Obtained.After(r.stale) && now.Before(x.Expiry):
		return true, nil
	case now.Before(x.NotBefore):
		p := newProblem(IssuerError, errors.New("the issuer refused this token a moment ago"))
		p.RetryAfter = max(time.Second, x.NotBefore.Sub(now))
		return false, p
	}
	return false, nil
}

// ask makes the token request for what is wanted. c holds our claim.
func (r *refresher) ask(ctx context.Context, c *content) (*issuer.TokenResponse, error) {
	if r.want == nil {
		return r.b.issuer.Refresh(ctx, c.grant.RefreshToken)
	}
	form := url.Values{}
	for name, values := range r.want.Params {
		form[name] = values
	}
	if !r.want.Exchange {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", c.grant.RefreshToken)
		return r.b.issuer.Grant(ctx, form, c.grant.RefreshToken)
	}
	form.Set("grant_type", grantTypeExchange)
	form.Set("subject_token", c.access.Reveal())
	form.Set("subject_token_type", typeAccessToken)
	if form.Get("requested_token_type") == "" {
		form.Set("requested_token_type", typeAccessToken)
	}
	tokens, err := r.b.issuer.Grant(ctx, form, c.access.Reveal())
	// RFC 8693, section 2.2.1: what was not asked for is not to be used.
	if err == nil && tokens.IssuedType != form.Get("requested_token_type") { // check:issued-token-type
		return nil, &issuer.Error{Op: "grant", Kind: issuer.Malformed, Check: "issued-token-type"}
	}
	return tokens, err
}

// spends reports whether the request presents the refresh token, so that the
// issuer may rotate it, or see in it that the grant is gone.
func (r *refresher) spends() bool { return r.want == nil || !r.want.Exchange }

// declined handles a token request for what is wanted that brought nothing, and
// that says nothing about the session: the issuer knows no such resource, say.
// It reports false where the failure is to be judged as any refresh's is.
func (r *refresher) declined(ctx context.Context, version uint64, c *content, err error) (*Problem, bool) {
	var e *issuer.Error
	if r.want == nil || !errors.As(err, &e) {
		return nil, false
	}
	refused := e.Kind == issuer.Answered && e.Status < 500
	switch {
	case !r.spends():
	case !refused, judge(e.Status, e.Code) == ends:
		return nil, false
	}
	now := time.Now()
	pause := grantPause
	if !refused {
		pause = time.Second
	}
	r.log.LogAttrs(ctx, slog.LevelWarn, "token not granted", slog.String("grant", r.want.Name), slog.Any("err", err))
	c.tokens = with(c.tokens, record.Token{Name: r.want.Name, NotBefore: now.Add(pause)})
	c.head.Claim = record.Claim{Contested: c.head.Claim.Contested}
	r.replace(ctx, version, c) // if it isn't written, the claim runs out
	p := newProblem(IssuerError, err)
	if !refused {
		p = newProblem(IssuerUnavailable, err)
	}
	p.RetryAfter = pause
	return p, true
}

// keep stores what was wanted, and the refresh token if it was rotated, at one
// stroke. The rest of the response says nothing about the session.
func (r *refresher) keep(ctx context.Context, version uint64, c *content, tokens *issuer.TokenResponse) (*loaded, *Problem, bool) {
	now := time.Now().Truncate(time.Millisecond)
	life := tokens.Lifetime
	if life < 0 {
		life = r.b.cfg.AccessTokenLifetime
	}
	var id [8]byte
	rand.Read(id[:])
	spent := c.grant.RefreshToken
	rotated := r.spends() && tokens.RefreshToken != "" && tokens.RefreshToken != spent
	if !rotated {
		tokens.RefreshToken = "" // of another grant: nothing here may revoke or keep it
	}
	w := &writer{refresher: r, version: version, content: *c, spent: spent, tokenID: id}
	if rec, problem, done := w.write(ctx, tokens, func(c *content) {
		if rotated {
			c.grant.RefreshToken = tokens.RefreshToken
		}
		c.head.TokenID = id
		c.tokens = with(c.tokens, record.Token{Name: r.want.Name, Token: tokens.AccessToken, Obtained: now, Expiry: now.Add(life)})
		c.head.Claim = record.Claim{}
		if r.spends() {
			c.head.Failure = record.Failure{}
		}
	}); done {
		return rec, problem, true
	}
	rec, err := w.stored()
	if err != nil {
		return nil, newProblem(StoreUnavailable, err), true
	}
	r.b.emit(ctx, nil, Event{Kind: Refreshed, Subject: w.content.head.Subject, Session: seal.Handle(r.key)})
	return rec, nil, true
}
