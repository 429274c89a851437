package plant

// Bugs are those that DECISIONS.md, D30, names, some in more than one reading,
// and those that the simulator found in the code when it was new.
var Bugs = []Bug{
	{
		Name: "no claim",
		Why:  "every replica that needs a token spends the refresh token",
		Edits: []Edit{{"refresh.go", `
	version, ok, problem := r.replace(ctx, rec.version, &c)
	if ok && takeover {
`, `
	version, ok, problem := rec.version, true, (*Problem)(nil)
	if !planted("no claim") {
		version, ok, problem = r.replace(ctx, rec.version, &c)
	}
	if ok && takeover {
`}},
	},
	{
		Name: "stale read after the claim",
		Why:  "what is spent is not what was claimed, but what a cache or a read replica knows (D6)",
		Edits: []Edit{{"refresh.go", `
	requestCtx, cancel := context.WithTimeout(ctx, r.b.cfg.IssuerTimeout)
	tokens, err := r.ask(`, `
	if planted("stale read after the claim") {
		if again, _, _ := r.b.load(ctx, &r.id, r.key); again != nil {
			if g, err := again.grant(); err == nil {
				c.grant = g
			}
		}
	}
	requestCtx, cancel := context.WithTimeout(ctx, r.b.cfg.IssuerTimeout)
	tokens, err := r.ask(`}},
	},
	{
		Name: "unconditional delete on refusal",
		Why:  "a refused loser ends the winner's session (D5)",
		Edits: []Edit{{"refresh.go", `
	case what == ends:
		r.refused = c.grant.RefreshToken
`, `
	case what == ends && planted("unconditional delete on refusal"):
		r.endAt(ctx, 0, c.head.Subject, RefreshRejected)
		return nil, newProblem(RefreshRejected, err), true
	case what == ends:
		r.refused = c.grant.RefreshToken
`}},
	},
	{
		Name: "conclusion without compare-and-swap",
		Why:  "the winner's write can come between the loser's look and the end (D5)",
		Edits: []Edit{{"refresh.go", `
	return r.endAt(ctx, rec.version, rec.head.Subject, RefreshRejected)
`, `
	if planted("conclusion without compare-and-swap") {
		return r.endAt(ctx, 0, rec.head.Subject, RefreshRejected)
	}
	return r.endAt(ctx, rec.version, rec.head.Subject, RefreshRejected)
`}},
	},
	{
		Name: "conclusion without a wait",
		Why:  "the winner may not have written yet (D5)",
		Edits: []Edit{{"refresh.go", `
	return r.refused != "" && claim.Holder == r.mine && !claim.Contested
`, `
	if planted("conclusion without a wait") {
		return r.refused != ""
	}
	return r.refused != "" && claim.Holder == r.mine && !claim.Contested
`}},
	},
	{
		Name: "time-out taken as failure: of a token request",
		Why:  "it may have been processed, and the next one is a replay while the access token still serves (D29)",
		Edits: []Edit{{"refresh.go", `
	case e.Kind != issuer.Unreachable && e.Status`, `
	case planted("time-out taken as failure: of a token request"):
	case e.Kind != issuer.Unreachable && e.Status`}},
	},
	{
		Name: "time-out taken as failure: of the grant",
		Why:  "an issuer that is slow signs everybody out (D17)",
		Edits: []Edit{{"refresh.go", `
	what := keeps
	if`, `
	what := keeps
	if planted("time-out taken as failure: of the grant") && e.Kind == issuer.Lost {
		what = ends
	}
	if`}},
	},
	{
		Name: "time-out taken as failure: of a write",
		Why:  "the rotated token is forgotten, and the old one spent again (D7)",
		Edits: []Edit{{"refresh.go", `
		version, ok, problem := w.replace(ctx, w.version, &next)
		if ok {
`, `
		version, ok, problem := w.replace(ctx, w.version, &next)
		if problem != nil && planted("time-out taken as failure: of a write") {
			return nil, problem, true
		}
		if ok {
`}},
	},
	{
		Name: "new token dropped on conflict",
		Why:  "the session lives, and its refresh token is lost (D7)",
		Edits: []Edit{{"refresh.go", `
		rec, gone, looked := w.look(ctx)
		switch {
`, `
		if problem == nil && planted("new token dropped on conflict") {
			return nil, newProblem(IssuerUnavailable, errors.New("conflict")), true
		}
		rec, gone, looked := w.look(ctx)
		switch {
`}},
	},
	{
		Name: "second grant beside the claim",
		Why:  "a token for another audience spends the same refresh token (D8)",
		Edits: []Edit{{"refresh.go", `
	if !h.Renewable {
		return nil
	}
	if now`, `
	if !h.Renewable {
		return nil
	}
	if planted("second grant beside the claim") && !now.Before(b.refreshAt(h)) {
		rec := s.record()
		if c, err := rec.content(); err == nil {
			if tokens, err := b.issuer.Refresh(ctx, c.grant.RefreshToken); err == nil && tokens.RefreshToken != "" {
				c.grant.RefreshToken = tokens.RefreshToken
				if value, err := c.seal(&s.id); err == nil {
					b.store.Replace(ctx, s.key, rec.version, value)
				}
			}
		}
	}
	if now`}},
	},
	{
		Name: "touch through Replace",
		Why:  "the session is not extended, or a refresh in progress finds another version (D27)",
		Edits: []Edit{{"session.go", `
	ok, err := b.store.Touch(storeCtx, s.key, until)
	switch {
`, `
	ok, err := b.store.Touch(storeCtx, s.key, until)
	if planted("touch through Replace") {
		rec := s.record()
		if c, e := rec.content(); e == nil {
			if value, e := c.seal(&s.id); e == nil {
				if _, version, _, live, e := b.store.Load(storeCtx, s.key); e == nil && live {
					_, ok, err = b.store.Replace(storeCtx, s.key, version, value)
				}
			}
		}
	}
	switch {
`}},
	},
	{
		Name: "touch by Replace alone",
		Why:  "Replace leaves the expiry alone: who is active idles out (D27)",
		Edits: []Edit{{"session.go", `
	storeCtx, cancel := b.storeContext(ctx)
	defer cancel()
	ok, err := b.store.Touch`, `
	storeCtx, cancel := b.storeContext(ctx)
	defer cancel()
	if planted("touch by Replace alone") {
		rec := s.record()
		if c, err := rec.content(); err == nil {
			if value, err := c.seal(&s.id); err == nil {
				b.store.Replace(storeCtx, s.key, rec.version, value)
			}
		}
		return nil
	}
	ok, err := b.store.Touch`}},
	},

	// Found by the simulator.
	{
		Name: "claim as long as a token request and little more",
		Why:  "with a slow store it runs out before the result is written, and another replica spends the token again",
		Edits: []Edit{{"refresh.go", `
	case time.Since(claimed) > claim.Length-r.b.cfg.IssuerTimeout-r.b.cfg.StoreTimeout:
`, `
	case planted("claim as long as a token request and little more") && time.Since(claimed) <= 5*time.Second:
	case time.Since(claimed) > claim.Length-r.b.cfg.IssuerTimeout-r.b.cfg.StoreTimeout:
`}, {"refresh.go", `
	claim := record.Claim{Length: r.b.claimLength(), Contested: rec.head.Claim.Contested}
`, `
	claim := record.Claim{Length: r.b.claimLength(), Contested: rec.head.Claim.Contested}
	if planted("claim as long as a token request and little more") {
		claim.Length = r.b.cfg.IssuerTimeout + 5*time.Second
	}
`}},
	},
	{
		Name: "metadata fetched under the claim",
		Why:  "a replica's first token request has little time left, and its answer is given up",
		Edits: []Edit{{"refresh.go", `
	if _, err := r.b.issuer.Metadata(ctx); err != nil {
`, `
	if planted("metadata fetched under the claim") {
	} else if _, err := r.b.issuer.Metadata(ctx); err != nil {
`}},
	},
	{
		Name: "server error taken as not processed",
		Why:  "a gateway's 502 can come after the issuer has rotated the token",
		Edits: []Edit{{"refresh.go", `
	case e.Kind != issuer.Unreachable && e.Status != http.StatusServiceUnavailable:
`, `
	case planted("server error taken as not processed") && e.Kind == issuer.Answered:
	case e.Kind != issuer.Unreachable && e.Status != http.StatusServiceUnavailable:
`}},
	},
	{
		Name: "expired on the way is a sign-out",
		Why:  "a token whose validation took longer than its life leads to the login",
		Edits: []Edit{{"refresh.go", `
		if rec.head.Renewable { // it ran out on the way here
`, `
		if rec.head.Renewable && !planted("expired on the way is a sign-out") {
`}},
	},
	{
		Name: "no revocation while closing",
		Why:  "what arrives for an ended session while the process shuts down lives on",
		Edits: []Edit{{"callback.go", `
	if !b.background(ctx, work) {
`, `
	if !b.background(ctx, work) && !planted("no revocation while closing") {
`}},
	},
	{
		Name: "another's claim cleared",
		Why:  "a late write of the rest lets a third replica spend what the second is spending",
		Edits: []Edit{{"refresh.go", `
		if w.theirs {
			next.head.Claim`, `
		if w.theirs && !planted("another's claim cleared") {
			next.head.Claim`}, {"refresh.go", `
			if (w.theirs || claim == next.head.Claim) && c.head.TokenID`, `
			if !planted("another's claim cleared") && (w.theirs || claim == next.head.Claim) && c.head.TokenID`}},
	},
	{
		Name: "no time for the last holder",
		Why:  "after an outage whoever claims first spends what the last holder has spent and could not write",
		Edits: []Edit{{"refresh.go", `
	if ok && takeover {
`, `
	if ok && takeover && !planted("no time for the last holder") {
`}},
	},
	{
		Name: "older token taken for a newer one",
		Why:  "a read that is behind makes the writer forget what it has (D7)",
		Edits: []Edit{{"refresh.go", `
			if err == nil && rec.version > w.version && grant`, `
			if err == nil && (rec.version > w.version || planted("older token taken for a newer one")) && grant`}},
	},
	{
		Name: "failure forgotten on conflict",
		Why:  "nobody knows that the token may have been spent, and it is presented again while the access token still serves",
		Edits: []Edit{{"refresh.go", `
		if _, ok, problem := r.replace(ctx, version, c); ok || problem != nil {
`, `
		if _, ok, problem := r.replace(ctx, version, c); ok || problem != nil || planted("failure forgotten on conflict") {
`}},
	},
}
