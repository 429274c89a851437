package sim

import (
	"fmt"
	"net/http"
	"time"
)

// The cases of DECISIONS.md, D29, in which an issuer may see a refresh token
// twice whatever a library does, and one more that is like them.
const (
	caseAnswer = "an answer was lost"
	caseCrash  = "a crash between the answer and the write"
	casePause  = "a pause for longer than the claim"
	caseWrite  = "a write that was acknowledged and lost"
	caseCut    = "the store out of the holder's reach for longer than the claim"
)

// Cases lists the named cases.
var Cases = []string{caseAnswer, caseCrash, casePause, caseWrite, caseCut}

// quiet reports whether nothing is in the way of exactly one token request for
// each access token.
func (w *world) quiet() bool {
	for k, on := range w.kinds {
		switch kind(k) {
		case slowTrips, staleReads, commands, otherWriters, restarts:
		default:
			if on {
				return false
			}
		}
	}
	return true
}

// judge looks at a use of a refresh token when it reaches the issuer. The world
// is locked.
func (w *world) judge(x *use) {
	u := x.token.family.u
	s, c := w.sessions[u], w.records[w.sessions[u].key]
	var first *use // the last one that was granted
	for _, y := range x.token.uses {
		if y.granted != nil {
			first = y
		}
	}
	if w.quiet() {
		margin := min(w.life/10, time.Minute)
		// To validate what came can take longer than the claim, if all is slow:
		// then the next one goes on from the refresh token that was stored.
		overtaken := w.kinds[slowTrips] && (w.idToken || w.userInfo)
		if x.left < x.obtained+w.life-margin-time.Millisecond && !overtaken {
			w.failLocked("u%d: replica %d spends %s at %v for an access token of %v that is not due", u, x.by.id, x.token.name, x.left, x.obtained)
		}
		// Where there is no rotation nothing is stored before it is validated,
		// which can take longer than the claim, and does no harm.
		if first != nil && first.at >= x.obtained && !(w.reuse == isWelcome && w.kinds[slowTrips]) {
			w.failLocked("u%d: replicas %d and %d both spend %s, for one access token", u, first.by.id, x.by.id, x.token.name)
		}
	}
	if first == nil {
		return
	}
	if first.fate != "" && x.left < x.serves && first.serves == x.serves && w.couldNote(first, x) {
		w.failLocked("u%d: replica %d presents %s again, though %s and the access token still serves until %v", u, x.by.id, x.token.name, first.fate, x.serves)
	}
	if w.reuse == isWelcome {
		return
	}
	x.excuse = w.excuse(first, x, c)
	if x.excuse == "" {
		w.failLocked("u%d: %s is presented by replica %d under claim %d and again by replica %d under claim %d: no named case", u, x.token.name, first.by.id, first.claim, x.by.id, x.claim)
		return
	}
	s.excused = x.excuse
	w.res.Counts.Cases[x.excuse]++
}

// couldNote reports whether nothing kept the replica of a use whose answer was
// lost from telling the others before the next one. The world is locked.
func (w *world) couldNote(first, next *use) bool {
	r, u := first.by, first.token.family.u
	return !r.killed && !w.stopped(r, first.left, next.left, 0) && !r.wasTroubled(u, first.left) && !w.records[w.sessions[u].key].lost &&
		!w.stopped(next.by, next.claimed, next.at, 0) && next.fate != comesLate
}

// excuse returns the named case that explains why a refresh token comes a
// second time, or "". The world is locked.
func (w *world) excuse(first, again *use, c *rec) string {
	a, b, u := first.by, again.by, first.token.family.u
	// Before the second claim: what was stored by then, that one is on.
	stored := first.granted.stored != 0 && first.granted.stored < again.claimed
	switch {
	case c.lost:
		return caseWrite
	case first.fate != "" || again.fate == comesLate:
		return caseAnswer
	case a.killed && !stored:
		return caseCrash
	case w.stopped(a, first.claimed, again.at, w.long()) || w.stopped(b, again.claimed, again.at, w.long()):
		return casePause
	case first.returned != 0 && !stored && a.wasTroubled(u, first.returned) && (w.kinds[cuts] || w.kinds[storeFaults]):
		// Not where the store was away for all: then the holder is in time.
		return caseCut
	}
	return ""
}

// long returns how long a replica must have been stopped for its claim to run
// out: most of the claim's length, or what slow trips leave of it.
func (w *world) long() time.Duration {
	if w.kinds[slowTrips] {
		return time.Second
	}
	return 10 * time.Second
}

// stopped reports whether r was stopped for at least d between two times.
func (w *world) stopped(r *replica, from, to, d time.Duration) bool {
	for _, p := range r.pauses {
		if overlap := min(p.to, to) - max(p.from, from); overlap > 0 && overlap >= d {
			return true
		}
	}
	return false
}

// wasTroubled reports whether a write of r's in u's record has met with a
// fault since.
func (r *replica) wasTroubled(u int, since time.Duration) bool {
	n := len(r.troubled[u])
	return n > 0 && r.troubled[u][n-1] >= since
}

// wrote looks at a write. The world is locked.
func (w *world) wrote(r *replica, key string, before, after *state) {
	s, c := w.sessionAt(key), w.records[key]
	if s == nil {
		return
	}
	if after.claim != 0 && after.claim != before.claim {
		r.claims[s.u] = claim{after.claim, w.now()}
	}
	old, now := w.iss.refresh[before.refresh], w.iss.refresh[after.refresh]
	switch {
	case now == nil:
		w.failLocked("u%d: replica %d stores the refresh token %q, which was never issued", s.u, r.id, after.refresh)
		return
	case now.n < old.n && !c.lost:
		w.failLocked("u%d: replica %d puts %s back in the place of %s", s.u, r.id, now.name, old.name)
	case after.obtained < before.obtained && !c.lost && w.reuse != isWelcome:
		w.failLocked("u%d: replica %d puts %s back in the place of %s", s.u, r.id, after.access, before.access)
	}
	if now.stored == 0 {
		now.stored = w.now()
	}
	s.access[after.access] = after.expiry
}

// ended looks at the end of a session. The world is locked.
func (w *world) ended(r *replica, key string, n uint64, mark string) {
	s := w.sessionAt(key)
	if s == nil {
		// The sign-in failed, since the store didn't say whether it created it.
		if mark != "session_revoked" {
			w.failLocked("replica %d ends %s, which is nobody's, as %s", r.id, key, mark)
		}
		return
	}
	s.over, s.mark = w.now(), mark
	if mark != "refresh_rejected" {
		if s.leaving == 0 {
			w.failLocked("u%d: ended as %s, which nobody asked for", s.u, mark)
		}
		return
	}
	if why := w.lostFor(r, s); why != "" {
		w.res.Counts.SignOuts[why]++
		return
	}
	w.failLocked("u%d: replica %d signs the user out, whose grant is alive and well", s.u, r.id)
}

// lostFor says why a session can't go on that r ends, or returns "" if it can.
// The world is locked.
func (w *world) lostFor(r *replica, s *session) string {
	f, c := w.iss.families[s.u], w.records[s.key]
	if f.dead != "" {
		if s.excused != "" {
			return s.excused
		}
		return f.dead
	}
	rt := w.iss.refresh[c.now().state.refresh]
	for _, old := range f.tokens {
		for _, x := range old.uses {
			if x.forged {
				return "forged tokens"
			}
		}
	}
	for _, x := range rt.uses {
		switch {
		case x.granted == nil || x.granted == rt:
		case x.granted.stored != 0 && !c.lost:
		case c.lost:
			return caseWrite
		case x.fate != "":
			return caseAnswer
		case x.by.killed:
			return caseCrash
		case !w.waited(r, rt):
			// The winner may yet write.
		case w.stopped(x.by, x.claimed, w.now(), w.long()):
			return casePause
		case x.by.wasTroubled(s.u, x.returned) && x.returned != 0:
			return caseCut
		}
	}
	return ""
}

// waited reports whether r has given the winner the length of a claim before it
// takes its own refusal for the end. The world is locked.
func (w *world) waited(r *replica, rt *refreshToken) bool {
	for _, x := range rt.uses {
		if x.by == r && x.granted == nil && w.now() < x.claimed+15*time.Second {
			return false
		}
	}
	return true
}

// revoked looks at a request to revoke a token. The world is locked.
func (w *world) revoked(rt *refreshToken) {
	if rt.family.u < 0 {
		return
	}
	s := w.sessions[rt.family.u]
	if c := w.live(s.key); c != nil && !c.lost {
		w.failLocked("u%d: %s is revoked while the session lives", s.u, rt.name)
	}
}

// check looks at an answer.
func (w *world) check(x *exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sessions[x.u]
	fail := func(format string, args ...any) {
		w.failLocked("u%d: %s %s at replica %d from %v: %d %s: %s", x.u, x.method, x.path, x.by.id, x.from, x.status, x.reason, fmt.Sprintf(format, args...))
	}
	if took := x.to - x.from; took > 50*time.Second && !w.stopped(x.by, x.from, x.to, 0) {
		fail("it took %v", took)
	}
	if len(x.cookies) > 0 && x.path != "/logout" {
		fail("it sets cookies")
	}
	switch x.status {
	case http.StatusOK:
		switch {
		case x.path == "/logout":
			return
		case s.over != 0 && s.over <= x.from && !(w.cache && x.method == http.MethodGet && s.over > x.from-maxStale):
			fail("the session had ended by then")
		case x.path == "/auth/session":
			return
		}
		expiry, known := s.access[x.token]
		switch {
		case !known:
			fail("%q is not an access token of this session's that was ever stored", x.token)
		case expiry <= x.to:
			fail("%s had expired at %v", x.token, expiry)
		}
	case http.StatusUnauthorized:
		switch {
		case s.over != 0 && (s.over > x.from || x.reason == s.mark):
		case x.reason == "upstream_unauthorized" && w.kinds[fickleAPI]:
		case x.reason == "refresh_rejected" && w.kinds[vagueRefusals] && s.refused >= 2 && s.over == 0:
		case s.over != 0:
			fail("the session ended as %s", s.mark)
		case w.live(s.key) == nil:
			fail("the session has idled out, though it was used")
		default:
			fail("the session lives")
		}
	case http.StatusServiceUnavailable:
		if x.retryAfter == 0 {
			fail("no Retry-After")
		}
		if !w.may503(x.reason) {
			fail("nothing was out of order")
		}
	default:
		fail("no such answer is expected")
	}
}

// may503 reports whether this world explains a 503 for that reason. The world
// is locked.
func (w *world) may503(reason string) bool {
	k := &w.kinds
	switch reason {
	case "store_unavailable":
		return k[storeFaults] || k[cuts] || k[outages] || k[pauses]
	case "issuer_unavailable":
		return k[slowTrips] || k[storeFaults] || k[grantFaults] || k[vagueRefusals] || k[lateValidation] ||
			k[crashes] || k[pauses] || k[cuts] || k[outages] || k[lostWrites]
	}
	return false
}

// audit looks at what is left when all is over. The world is locked.
func (w *world) audit() {
	for _, s := range w.sessions {
		f, c := w.iss.families[s.u], w.records[s.key]
		if s.over == 0 && w.live(s.key) == nil {
			w.failLocked("u%d: the session has idled out, though it was used", s.u)
		}
		for _, rt := range f.tokens {
			for _, x := range rt.uses {
				if x.granted == nil || x.granted == rt || x.granted.stored != 0 || x.returned == 0 || x.fate != "" || x.by.killed || c.lost {
					continue
				}
				// It arrived and was not stored: only because the session had
				// ended, and then it was given back.
				switch {
				case s.over == 0:
					w.failLocked("u%d: %s arrived at replica %d and was dropped", s.u, x.granted.name, x.by.id)
				case f.dead == "":
					w.failLocked("u%d: %s arrived at replica %d for a session that had ended, and was not revoked", s.u, x.granted.name, x.by.id)
				}
			}
		}
	}
}
