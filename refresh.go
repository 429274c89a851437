package bff

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/agglestone/bff/internal/issuer"
	"github.com/agglestone/bff/internal/record"
	"github.com/agglestone/bff/internal/seal"
)

// What this file promises: when an access token expires, one token request is
// made for it by all the replicas that share the store, and everybody gets its
// result.
//
// The right to spend the refresh token is a claim, written into the record by
// compare-and-swap at the version that was read. Others wait for a new version,
// and take over when they themselves have seen the same claim unchanged for its
// whole length, each by its own monotonic clock. What the issuer rotated is
// stored before anything is validated; what can't be stored is kept and
// written again. The work is detached from the request that caused it.
//
// What can't be promised: a process that dies between the issuer's answer and
// the write, or is stopped for longer than its claim between its last look and
// the request, a write that the store acknowledged and lost, and an answer that
// was lost, each can cost the session, since the issuer may see a refresh token
// twice.

// AccessToken returns a live access token, refreshed if need be. It fails with
// a *Problem: token_unavailable if the token has expired and there is no
// refresh token, refresh_rejected and its like if the session is over,
// issuer_unavailable or store_unavailable if nobody can tell at the moment.
// Give it to [BFF.Error]. ctx bounds the wait, not the refresh.
func (s *Session) AccessToken(ctx context.Context) (Secret, error) {
	if s == nil {
		return "", newProblem(NoSession, ErrNoSession)
	}
	bearer, _, problem := s.b.authorization(ctx, s)
	if problem != nil {
		return "", problem
	}
	return bearer[len(bearerPrefix):], nil
}

// authorization returns the Authorization header for a live access token, and
// when the issuer gave that.
func (b *BFF) authorization(ctx context.Context, s *Session) (Secret, time.Time, *Problem) {
	if problem := b.keepFresh(ctx, s, time.Now()); problem != nil {
		return "", time.Time{}, problem
	}
	rec := s.record()
	if !time.Now().Before(rec.head.AccessExpiry) { // check:token-expiry
		if rec.head.Renewable { // it ran out on the way here
			return "", time.Time{}, newProblem(IssuerUnavailable, errors.New("the access token has expired already"))
		}
		return "", time.Time{}, newProblem(TokenUnavailable, nil)
	}
	bearer, err := rec.authorization()
	if err != nil {
		return "", time.Time{}, newProblem(StoreUnavailable, err)
	}
	return bearer, rec.head.AccessObtained, nil
}

// keepFresh sees to the access token: it starts a refresh if the token is past
// its margin, and waits for it if the token has expired. Without a refresh
// token it does nothing.
func (b *BFF) keepFresh(ctx context.Context, s *Session, now time.Time) *Problem {
	h := &s.record().head
	if !h.Renewable {
		return nil
	}
	if now.Before(h.AccessExpiry) {
		if !now.Before(b.refreshAt(h)) && !now.Before(h.Failure.NotBefore) {
			b.refresh(ctx, s, h.AccessObtained)
		}
		return nil
	}
	return b.waitFor(ctx, s, b.refresh(ctx, s, h.AccessObtained))
}

// refreshAt returns when the access token is past its margin, or the issuer
// has not been asked for long enough.
func (b *BFF) refreshAt(h *record.Head) time.Time {
	life := h.AccessExpiry.Sub(h.AccessObtained)
	margin := b.cfg.RefreshMargin
	if margin == 0 {
		margin = min(life/10, time.Minute)
	}
	margin = min(margin, life/2) // or a new token would be past it at once
	return h.AccessObtained.Add(min(life-margin, b.cfg.RefreshEvery))
}

// A flight is one refresh in progress in this process.
type flight struct {
	done    chan struct{}
	rec     *loaded  // after done, one of the two
	problem *Problem // after done
	stalled atomic.Pointer[Problem]
}

// refresh joins the refresh of s's access token in this process, or starts it.
// The token is stale if the issuer gave it at or before the given time.
func (b *BFF) refresh(ctx context.Context, s *Session, stale time.Time) *flight {
	return b.fly(ctx, s, stale, nil)
}

// fly is refresh, or the same for another token of the session.
func (b *BFF) fly(ctx context.Context, s *Session, stale time.Time, want *Grant) *flight {
	name := s.key
	if want != nil {
		name += "\x00" + want.Name
	}
	b.mu.Lock()
	if f, ok := b.flights[name]; ok {
		b.mu.Unlock()
		return f
	}
	f := &flight{done: make(chan struct{})}
	b.flights[name] = f
	b.mu.Unlock()

	land := func() {
		if b.cache != nil {
			b.cache.drop(s.key) // what it knows is what was to be refreshed
		}
		b.mu.Lock()
		delete(b.flights, name)
		b.mu.Unlock()
		close(f.done)
	}
	r := &refresher{b: b, f: f, id: s.id, key: s.key, stale: stale, want: want, log: b.log.With("session", seal.Handle(s.key))}
	started := b.background(ctx, func(ctx context.Context) {
		f.rec, f.problem = r.run(ctx)
		land()
	})
	if !started {
		f.problem = newProblem(IssuerUnavailable, errors.New("closed"))
		land()
	}
	return f
}

// waitFor waits until f is done, and makes its result what s knows. The wait is
// bounded by ctx and by what one token request and a few writes may take.
func (b *BFF) waitFor(ctx context.Context, s *Session, f *flight) *Problem {
	timer := time.NewTimer(b.cfg.IssuerTimeout + b.cfg.StoreTimeout)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
		if p := f.stalled.Load(); p != nil {
			return p
		}
		return newProblem(IssuerUnavailable, errors.New("the refresh takes long"))
	case <-ctx.Done():
		return newProblem(IssuerUnavailable, ctx.Err())
	}
	if f.problem != nil {
		return f.problem
	}
	s.adopt(f.rec)
	return nil
}

// A verdict is what a token endpoint's refusal means for the session.
type verdict int

const (
	keeps verdict = iota // the operator's or the issuer's trouble: nothing ends
	doubt                // perhaps the grant: ends nothing, but twice asks for a new sign-in
	ends                 // the grant is gone
)

// judge is the one table of what ends a session. It goes by status and code,
// never by text.
func judge(status int, code string) verdict {
	if status != http.StatusBadRequest && status != http.StatusUnauthorized {
		return keeps
	}
	switch code {
	case "invalid_grant", "token_inactive", "invalid_token":
		return ends
	case "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "temporarily_unavailable", "server_error":
		return keeps
	}
	return doubt // invalid_request, an unknown code or none
}

const (
	doubtPause = 30 * time.Second // between two attempts that both met doubt
	maxPause   = 30 * time.Second // between two attempts at an issuer in trouble
	handover   = 2 * time.Second  // for the holder of a claim that ran out to store what it has
	pollFirst  = 5 * time.Millisecond
	pollMost   = 250 * time.Millisecond
	pollWoken  = time.Second // where the store reports what it changes
)

// A refresher carries out one flight.
type refresher struct {
	b     *BFF
	f     *flight
	id    seal.ID
	key   string
	stale time.Time // the access token of then is to be replaced
	want  *Grant    // the token that is to be had; nil: the session's own
	log   *slog.Logger

	// What this process has itself seen of somebody else's claim.
	seen   [8]byte
	seenAt time.Time

	mine    [8]byte // the holder of our own last claim
	refused string  // the refresh token that the issuer refused
}

// run refreshes, waits for whoever does, or finds out why neither can be.
func (r *refresher) run(ctx context.Context) (*loaded, *Problem) {
	changes := r.b.changes.await(r.key)
	defer r.b.changes.leave(changes)
	for poll := pollFirst; ; poll = min(2*poll, pollMost) {
		rec, _, problem := r.b.load(ctx, &r.id, r.key)
		if problem != nil {
			return nil, problem
		}
		h, now := &rec.head, time.Now()
		done := h.AccessObtained.After(r.stale) && now.Before(h.AccessExpiry)
		if r.want != nil {
			if done, problem = r.settled(rec); problem != nil {
				return nil, problem
			}
		}
		if done {
			r.letGo(ctx, rec)
			return rec, nil // somebody else did it
		}
		switch held := h.Claim.Held() && !r.ranOut(h.Claim) && !r.certain(h.Claim); {
		case held:
			r.b.watch()
			if r.b.listening() {
				poll = pollWoken
			}
		case r.refused != "":
			if rec, problem, done := r.conclude(ctx, rec); done {
				return rec, problem
			}
		case now.Before(h.Failure.NotBefore):
			return nil, r.paused(h)
		case r.spends() && !h.Renewable, !r.spends() && !now.Before(h.AccessExpiry):
			return nil, newProblem(TokenUnavailable, nil)
		default:
			if rec, problem, done := r.attempt(ctx, rec); done {
				return rec, problem
			}
			if r.refused != "" {
				continue
			}
		}
		// Also where a version that we judged was no longer the present one: a
		// store whose reads are behind would keep us going round.
		if !changes.wait(ctx, poll) {
			return nil, newProblem(IssuerUnavailable, ctx.Err())
		}
	}
}

// ranOut reports whether this process has seen claim unchanged for its whole
// length.
func (r *refresher) ranOut(claim record.Claim) bool {
	if claim.Holder != r.seen {
		r.seen, r.seenAt = claim.Holder, time.Now()
	}
	return time.Since(r.seenAt) >= claim.Length
}

// certain reports whether a refusal under claim is conclusive at once: the
// claim is ours, and nobody else can have spent the token that was refused.
func (r *refresher) certain(claim record.Claim) bool {
	return r.refused != "" && claim.Holder == r.mine && !claim.Contested
}

// paused says why there is no attempt before h.Failure.NotBefore.
func (r *refresher) paused(h *record.Head) *Problem {
	p := newProblem(IssuerUnavailable, errors.New("the last attempt failed a moment ago"))
	if h.Failure.Doubts >= 2 {
		p = newProblem(RefreshRejected, errors.New("the issuer refused twice without naming the grant"))
	}
	p.RetryAfter = max(time.Second, time.Until(h.Failure.NotBefore))
	return p
}

// claimLength is how long a claim holds: a token request, and the write that
// claims before it and the one of its result after it.
func (b *BFF) claimLength() time.Duration { return b.cfg.IssuerTimeout + 2*b.cfg.StoreTimeout }

// attempt claims the right to spend the refresh token of rec and spends it. It
// reports false where the record has to be read again first.
func (r *refresher) attempt(ctx context.Context, rec *loaded) (*loaded, *Problem, bool) {
	// What may take long is done before the claim, which would run out: to
	// queue, and to find the token endpoint.
	select {
	case r.b.refreshes <- struct{}{}:
	case <-ctx.Done():
		return nil, newProblem(IssuerUnavailable, ctx.Err()), true
	case <-time.After(r.b.cfg.IssuerTimeout):
		return nil, newProblem(IssuerUnavailable, errors.New("too many token requests in flight")), true
	}
	release := func() { <-r.b.refreshes }

	if _, err := r.b.issuer.Metadata(ctx); err != nil {
		release()
		return nil, newProblem(IssuerUnavailable, err), true
	}
	c, err := rec.content()
	if err != nil {
		release()
		return nil, newProblem(StoreUnavailable, err), true
	}
	claim := record.Claim{Length: r.b.claimLength(), Contested: rec.head.Claim.Contested}
	takeover := rec.head.Claim.Held() && rec.head.Claim.Holder != r.mine
	if takeover {
		claim.Length, claim.Contested = claim.Length+handover, true
	}
	rand.Read(claim.Holder[:])
	c.head.Claim, r.mine = claim, claim.Holder
	claimed := time.Now()
	version, ok, problem := r.replace(ctx, rec.version, &c)
	if ok && takeover {
		version, ok, problem = r.handedOver(ctx, &c)
	}
	switch {
	case problem != nil: // perhaps it was written
		release()
		if !takeover { // or the last holder might not be waited for again
			r.takeBack(rec.version, claim)
		}
		return nil, problem, true
	case !ok: // somebody else wrote first
		release()
		return nil, nil, false
	case time.Since(claimed) > claim.Length-r.b.cfg.IssuerTimeout-r.b.cfg.StoreTimeout:
		// Too little is left of it. As the holder we need not wait it out.
		release()
		r.seen, r.seenAt = claim.Holder, claimed.Add(-claim.Length)
		return nil, nil, false
	}
	r.seen, r.seenAt = claim.Holder, claimed

	requestCtx, cancel := context.WithTimeout(ctx, r.b.cfg.IssuerTimeout)
	tokens, err := r.ask(requestCtx, &c)
	cancel()
	release()
	if err != nil {
		if problem, done := r.declined(ctx, version, &c, err); done {
			return nil, problem, true
		}
		if tokens == nil {
			return r.failed(ctx, version, &c, err)
		}
	}
	if err == nil && r.want != nil {
		return r.keep(ctx, version, &c, tokens)
	}
	return r.granted(ctx, version, &c, tokens, err)
}

// handedOver waits a moment after we took over a claim that ran out, and
// reports whether it is still for us to spend the refresh token. If we can
// write, so can the last holder, who may have been kept from it for longer than
// its claim with the rotated token in its hands, and tries again every second.
func (r *refresher) handedOver(ctx context.Context, c *content) (version uint64, ok bool, problem *Problem) {
	if !sleep(ctx, handover) {
		return 0, false, newProblem(IssuerUnavailable, ctx.Err())
	}
	rec, _, problem := r.b.load(ctx, &r.id, r.key)
	if problem != nil {
		return 0, false, problem
	}
	h := &rec.head
	return rec.version, h.Claim == c.head.Claim && h.TokenID == c.head.TokenID && h.AccessObtained.Equal(c.head.AccessObtained), nil
}

// takeBack lets go of a claim under which nothing was spent and of which the
// store didn't say whether it was written, as soon as it does: until it had run
// out nobody could refresh, however soon the store is well again. The claim was
// to replace the given version.
func (r *refresher) takeBack(version uint64, claim record.Claim) {
	over := time.Now().Add(claim.Length)
	r.b.forever(func(ctx context.Context) {
		for pause := pollFirst; time.Now().Before(over); pause = min(2*pause, pollMost) {
			rec, _, problem := r.b.load(ctx, &r.id, r.key)
			switch {
			case problem != nil && problem.Status == http.StatusUnauthorized:
				return
			case problem == nil && rec.head.Claim.Holder == claim.Holder:
				c, err := rec.content()
				if err != nil {
					return
				}
				c.head.Claim = record.Claim{Contested: claim.Contested}
				r.replace(ctx, rec.version, &c)
				continue // it is looked whether it was done
			case problem == nil && rec.version != version: // it can't be written any more
				return
			}
			if !sleep(ctx, pause) {
				return
			}
		}
	})
}

// letGo gives our claim back, if rec has one that we need no more.
func (r *refresher) letGo(ctx context.Context, rec *loaded) {
	if !rec.head.Claim.Held() || rec.head.Claim.Holder != r.mine {
		return
	}
	if c, err := rec.content(); err == nil {
		c.head.Claim = record.Claim{}
		r.replace(ctx, rec.version, &c) // if it isn't written, the claim runs out
	}
}

// replace writes c if the record still has the version. After an unclear write
// it looks whether it was done.
func (r *refresher) replace(ctx context.Context, version uint64, c *content) (next uint64, ok bool, problem *Problem) {
	value, err := c.seal(&r.id)
	if err != nil {
		return 0, false, newProblem(StoreUnavailable, err)
	}
	storeCtx, cancel := r.b.storeContext(ctx)
	next, ok, err = r.b.store.Replace(storeCtx, r.key, version, value)
	cancel()
	if err == nil {
		if ok {
			r.b.changed(r.key)
		}
		return next, ok, nil
	}
	now, _, problem := r.b.load(ctx, &r.id, r.key)
	if problem != nil {
		return 0, false, problem
	}
	h := &now.head
	if h.TokenID == c.head.TokenID && h.Claim == c.head.Claim && h.AccessObtained.Equal(c.head.AccessObtained) {
		return now.version, true, nil
	}
	return 0, false, newProblem(StoreUnavailable, err)
}

// failed handles a token request without a grant. c holds our claim.
func (r *refresher) failed(ctx context.Context, version uint64, c *content, err error) (*loaded, *Problem, bool) {
	var e *issuer.Error
	if !errors.As(err, &e) {
		e = &issuer.Error{Op: "refresh", Kind: issuer.Lost, Err: err}
	}
	now := time.Now()
	what := keeps
	if e.Kind == issuer.Answered {
		what = judge(e.Status, e.Code)
	}
	fail := &c.head.Failure
	fail.Count++
	fail.NotBefore = now.Add(min(time.Second<<min(fail.Count-1, 5), maxPause))
	level, problem := slog.LevelWarn, newProblem(IssuerUnavailable, err)
	switch {
	case what == ends:
		r.refused = c.grant.RefreshToken
		return nil, nil, false
	case what == doubt:
		if fail.Doubts == 0 {
			fail.FirstDoubt = now
		}
		if fail.Doubts == 0 || now.Sub(fail.FirstDoubt) >= doubtPause {
			fail.Doubts++
		}
		fail.NotBefore = now.Add(doubtPause)
		if fail.Doubts >= 2 {
			problem = newProblem(RefreshRejected, err)
		}
	case e.Kind == issuer.Answered && e.Status < 500:
		level = slog.LevelError // invalid_client and its like: an operator must act
	case e.Kind != issuer.Unreachable && e.Status != http.StatusServiceUnavailable:
		// It may have been processed, and then the next one is a replay: not
		// while the access token still serves.
		if c.head.AccessExpiry.After(fail.NotBefore) {
			fail.NotBefore = c.head.AccessExpiry
		}
	}
	r.log.LogAttrs(ctx, level, "refresh failed", slog.Any("err", err), slog.Time("not_before", fail.NotBefore))
	r.b.emit(ctx, nil, Event{Kind: RefreshFailed, Subject: c.head.Subject, Session: seal.Handle(r.key), Reason: problem.Reason, Err: err})
	problem.RetryAfter = max(time.Second, fail.NotBefore.Sub(now))
	if c.head.Claim.Holder != r.mine { // somebody goes on from what we stored
		return nil, problem, true
	}
	r.note(ctx, version, c)
	return nil, problem, true
}

// note stores the failure in c, for the pause, and lets go of the claim, as long
// as it is ours. If it isn't written, the claim runs out.
func (r *refresher) note(ctx context.Context, version uint64, c *content) {
	fail, claim := c.head.Failure, c.head.Claim
	for range 3 {
		c.head.Failure, c.head.Claim = fail, record.Claim{Contested: claim.Contested}
		if _, ok, problem := r.replace(ctx, version, c); ok || problem != nil {
			return
		}
		// Another version, but perhaps only by somebody who writes something
		// else: a token that may have been spent must not come again for that.
		rec, _, problem := r.b.load(ctx, &r.id, r.key)
		if problem != nil || rec.head.Claim != claim {
			return
		}
		var err error
		if *c, err = rec.content(); err != nil {
			return
		}
		version = rec.version
	}
}

// conclude ends the session whose refresh token the issuer refused, unless
// another replica's result has come in. rec was read after the refusal. Where
// somebody else may have spent the token too, run has waited for the claim to
// run out, so that a winner's write was not missed.
func (r *refresher) conclude(ctx context.Context, rec *loaded) (*loaded, *Problem, bool) {
	grant, err := rec.grant()
	if err != nil {
		return nil, newProblem(StoreUnavailable, err), true
	}
	if grant.RefreshToken != r.refused {
		r.refused = ""
		return nil, nil, false
	}
	return r.endAt(ctx, rec.version, rec.head.Subject, RefreshRejected)
}

// endAt ends the session as a conclusion drawn from a version of its record.
func (r *refresher) endAt(ctx context.Context, version uint64, subject string, why Reason) (*loaded, *Problem, bool) {
	ok, err := r.b.end(ctx, r.key, version, why)
	if err != nil {
		return nil, newProblem(StoreUnavailable, err), true
	}
	if !ok { // it is another version by now: judge that
		return nil, nil, false
	}
	by := ByIssuer
	if why == SessionRevoked {
		by = ByApplication // Config.OnLogin refused
	}
	r.b.emit(ctx, nil, Event{Kind: SessionEnded, Subject: subject, Session: seal.Handle(r.key), Reason: why, By: by})
	return nil, newProblem(why, ErrNoSession), true
}

// granted stores what a token request brought: a rotated refresh token alone
// and at once, the rest after it was validated. malformed is the reason why
// there is no rest.
func (r *refresher) granted(ctx context.Context, version uint64, c *content, tokens *issuer.TokenResponse, malformed error) (*loaded, *Problem, bool) {
	// To the millisecond, as the record keeps it.
	spent, obtained := c.grant.RefreshToken, time.Now().Truncate(time.Millisecond)
	rotated := tokens.RefreshToken != "" && tokens.RefreshToken != spent
	unverified := tokens.IDToken != "" || r.b.cfg.UserInfo || r.b.cfg.OnLogin != nil
	var id [8]byte
	rand.Read(id[:])
	w := &writer{refresher: r, version: version, content: *c, spent: spent, tokenID: id}

	if rotated && (unverified || malformed != nil) {
		if rec, problem, done := w.write(ctx, tokens, func(c *content) {
			c.head.TokenID, c.grant.RefreshToken = id, tokens.RefreshToken
		}); done {
			return rec, problem, true
		}
	}
	if malformed != nil {
		return r.failed(ctx, w.version, &w.content, malformed)
	}
	learned, rec, problem := r.validate(ctx, w, tokens)
	if rec != nil || problem != nil {
		return rec, problem, true
	}
	if rec, problem, done := w.write(ctx, tokens, func(c *content) {
		if learned != nil {
			c.claims, c.head.Groups, c.head.End = learned.claims, learned.head.Groups, learned.head.End
		}
		if tokens.IDToken != "" {
			c.grant.IDToken, c.grant.AtUserInfo = tokens.IDToken, learned.grant.AtUserInfo
		}
		if rotated {
			c.grant.RefreshToken = tokens.RefreshToken
		}
		c.head.TokenID, c.access = id, Secret(tokens.AccessToken)
		r.b.lend(&c.head, tokens, obtained)
		c.head.Claim, c.head.Failure = record.Claim{}, record.Failure{}
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

// validate holds a token response to OpenID Connect Core 1.0, section 12.2,
// and asks userinfo and the application again. What fails for good ends the
// session; what can't be decided now is tried again, without another token
// request, while the claim is kept. It returns what the response says, nil if it
// says nothing, unless another result came in first or there is a problem.
func (r *refresher) validate(ctx context.Context, w *writer, tokens *issuer.TokenResponse) (*content, *loaded, *Problem) {
	limit := time.Now().Add(max(time.Minute, min(tokens.Lifetime, 5*time.Minute)))
	for pause := time.Second; ; pause = min(2*pause, 5*time.Second) {
		learned, err := r.check(ctx, &w.content, tokens)
		if err == nil {
			return learned, nil, nil
		}
		var e *issuer.Error
		var no *refusal
		final := errors.As(err, &no) || errors.As(err, &e) && e.Kind == issuer.Invalid
		if final { // check:condemn
			why := RefreshRejected
			if no != nil {
				why = SessionRevoked
			}
			r.log.LogAttrs(ctx, slog.LevelWarn, "refreshed tokens refused", slog.Any("err", err))
			return nil, nil, w.condemn(ctx, tokens, why)
		}
		r.f.stalled.Store(newProblem(IssuerUnavailable, err))
		r.log.LogAttrs(ctx, slog.LevelWarn, "refreshed tokens can't be validated yet", slog.Any("err", err))
		if time.Now().After(limit) || r.b.quit.Err() != nil || !sleep(ctx, pause) { // what was rotated is stored
			_, problem, _ := r.failed(ctx, w.version, &w.content, &issuer.Error{Op: "refresh", Kind: issuer.Unreachable, Err: err})
			return nil, nil, problem
		}
		if rec, problem, done := w.write(ctx, tokens, func(c *content) { rand.Read(c.head.Claim.Holder[:]) }); done {
			return nil, rec, problem
		}
	}
}

// check validates a token response against the sign-in that c came from. It
// returns the new claims, or nil if the response says nothing about them.
func (r *refresher) check(ctx context.Context, c *content, tokens *issuer.TokenResponse) (*content, error) {
	if tokens.IDToken == "" && !r.b.cfg.UserInfo && r.b.cfg.OnLogin == nil {
		return nil, nil
	}
	learned := *c
	idToken, old := payload(c.grant.IDToken), true // not c.claims: those are userinfo's of the last time, too
	if tokens.IDToken != "" {
		tok, err := r.b.issuer.VerifyIDToken(ctx, tokens.IDToken, issuer.Expect{
			Nonce: c.grant.Nonce,
			Prior: &issuer.IDToken{
				Subject: c.head.Subject, Audience: c.grant.Audience, AuthorizedParty: c.grant.AuthorizedParty,
				IssuedAt: c.grant.IssuedAt, AuthTime: c.grant.AuthTime, Nonce: c.grant.Nonce,
			},
			AccessToken: tokens.AccessToken,
		})
		if err != nil {
			return nil, err
		}
		idToken, old = tok.Claims, false
		if end := tok.SessionExpiry; !end.IsZero() && end.Before(learned.head.End) {
			learned.head.End = end
		}
	}
	if tokens.IDToken != "" || r.b.cfg.UserInfo {
		if err := r.b.learn(ctx, &learned, idToken, tokens.AccessToken, old); err != nil {
			return nil, err
		}
	}
	login := &Login{Refresh: true}
	if err := r.b.ask(ctx, &learned, login); err != nil { // check:on-refresh
		var no *refusal
		if errors.As(err, &no) {
			return nil, err
		}
		return nil, fmt.Errorf("OnLogin: %w", err)
	}
	return &learned, nil
}

// A writer writes the result of a token request, however often it takes.
type writer struct {
	*refresher
	version uint64
	content content
	spent   string  // the refresh token that was spent
	tokenID [8]byte // names the response in the record
	theirs  bool    // content's claim is on the refresh token that we stored, and somebody else's
}

// write applies change to the record. When somebody else wrote in between, or
// it is unclear whether we did, it looks and writes again, with back-off, until
// the change is stored, the session's end is known, or the process stops:
// tokens are not forgotten, and nothing is revoked, while the session lives. It
// reports done if there is nothing left to write.
func (w *writer) write(ctx context.Context, tokens *issuer.TokenResponse, change func(*content)) (*loaded, *Problem, bool) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		next := w.content
		change(&next)
		if w.theirs {
			next.head.Claim = w.content.head.Claim
		}
		version, ok, problem := w.replace(ctx, w.version, &next)
		if ok {
			w.version, w.content = version, next
			if !w.theirs {
				w.mine = next.head.Claim.Holder
			}
			return nil, nil, false
		}
		rec, gone, looked := w.look(ctx)
		switch {
		case gone != nil:
			w.discard(ctx, tokens, gone.Reason)
			return nil, gone, true
		case rec != nil:
			grant, err := rec.grant()
			if err == nil && rec.version > w.version && grant.RefreshToken != w.spent && rec.head.TokenID != w.tokenID {
				// Another result is newer. It counts if it is complete. (An
				// older one is what a store shows whose reads are behind.)
				if time.Now().Before(rec.head.AccessExpiry) {
					return rec, nil, true
				}
				return nil, newProblem(IssuerUnavailable, errors.New("another replica is about to refresh")), true
			}
			c, err := rec.content()
			if err != nil {
				return nil, newProblem(StoreUnavailable, err), true
			}
			w.version, w.content = rec.version, c
			claim := c.head.Claim
			w.theirs = c.head.TokenID == w.tokenID && claim.Held() && claim.Holder != w.mine &&
				(w.theirs || claim.Holder != next.head.Claim.Holder)
			if (w.theirs || claim == next.head.Claim) && c.head.TokenID == w.tokenID && c.head.AccessObtained.Equal(next.head.AccessObtained) {
				return nil, nil, false // it was done
			}
		}
		if problem == nil {
			problem = looked
		}
		if problem != nil {
			w.f.stalled.Store(problem)
			w.log.LogAttrs(ctx, slog.LevelWarn, "refreshed tokens not stored yet", slog.Any("err", problem))
		}
		if !sleep(ctx, pause) {
			w.log.LogAttrs(ctx, slog.LevelError, "stopped before refreshed tokens were stored: this session may be lost")
			return nil, newProblem(StoreUnavailable, ctx.Err()), true
		}
	}
}

// discard revokes what came for a session that ended meanwhile, and must not
// live on, unless a new sign-in took its place: then both may hang on one grant.
func (w *writer) discard(ctx context.Context, tokens *issuer.TokenResponse, why Reason) {
	if why == Replaced { // check:replaced-grant
		return
	}
	w.b.revoke(ctx, tokens.RefreshToken, tokens.AccessToken)
}

// look reads the record again. gone says that the session has ended.
func (w *writer) look(ctx context.Context) (rec *loaded, gone, unclear *Problem) {
	rec, _, problem := w.b.load(ctx, &w.id, w.key)
	switch {
	case problem == nil:
		return rec, nil, nil
	case problem.Status == http.StatusUnauthorized:
		return nil, problem, nil
	}
	return nil, nil, problem
}

// condemn ends the session because its tokens failed for good, and revokes
// them.
func (w *writer) condemn(ctx context.Context, tokens *issuer.TokenResponse, why Reason) *Problem {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		_, problem, done := w.endAt(ctx, w.version, w.content.head.Subject, why)
		rec, gone, _ := w.look(ctx)
		if done && problem.Status == http.StatusUnauthorized {
			gone = problem
		}
		if gone != nil {
			w.discard(ctx, tokens, gone.Reason)
			return gone
		}
		if rec != nil && rec.head.TokenID != w.content.head.TokenID {
			return newProblem(IssuerUnavailable, errors.New("another replica refreshed"))
		}
		if rec != nil {
			w.version = rec.version
		}
		if !sleep(ctx, pause) {
			return newProblem(StoreUnavailable, ctx.Err())
		}
	}
}

// stored returns the record as it was last written.
func (w *writer) stored() (*loaded, error) {
	value, err := w.content.seal(&w.id)
	if err != nil {
		return nil, err
	}
	return open(&w.id, w.key, value, w.version)
}
