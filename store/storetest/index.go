package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
)

// notes is what Tagged returns.
type notes = map[string][]byte

var indexRules = []rule{
	{
		name:  "tag",
		needs: Indexer,
		why:   "a session that is filed under its user, before its record is, is found when the user's sessions are ended",
		check: func(ctx context.Context, s *subject) error {
			return cmp.Or(
				s.tag(ctx, "t", "s1", v1, s.far()),
				s.under(ctx, "t", notes{"s1": v1}),
				s.tag(ctx, "t", "s2", v2, s.far()),
				s.under(ctx, "t", notes{"s1": v1, "s2": v2}),
			)
		},
	},
	{
		name:  "tagged-nothing",
		needs: Indexer,
		why:   "a user without sessions is an answer: an error would have the issuer send its logout token again and again",
		check: func(ctx context.Context, s *subject) error {
			return s.under(ctx, "tabsent", nil)
		},
	},
	{
		name:  "tags-apart",
		needs: Indexer,
		why:   "who ends one user's sessions ends nobody else's, however alike the tags are",
		check: tagsApart,
	},
	{
		name:  "tags-of-every-kind",
		needs: Indexer,
		why:   "tags and keys may have any printable ASCII character anywhere and 64 of them",
		check: func(ctx context.Context, s *subject) error {
			long := string(bytes.Repeat([]byte("x"), 63))
			names := []string{"", long}
			for c := '!'; c <= '~'; c++ {
				names = append(names, string(c))
			}
			for _, name := range names {
				err := cmp.Or(
					s.tag(ctx, "t"+name, "s", v1, s.far()),
					s.tag(ctx, "tall", "s"+name, []byte(name), s.far()),
				)
				if err != nil {
					return err
				}
			}
			all := make(notes)
			for _, name := range names {
				all["s"+name] = []byte(name)
				if err := s.under(ctx, "t"+name, notes{"s": v1}); err != nil {
					return err
				}
			}
			return s.under(ctx, "tall", all)
		},
	},
	{
		name:  "tag-again",
		needs: Indexer,
		why:   "a session that is filed again is one session, with the note and the time of the last filing",
		check: func(ctx context.Context, s *subject) error {
			err := cmp.Or(
				s.tag(ctx, "t", "slonger", v1, s.in(1)),
				s.tag(ctx, "t", "slonger", v2, s.far()),
				s.tag(ctx, "t", "sshorter", v1, s.far()),
				s.tag(ctx, "t", "sshorter", v3, s.in(1)),
				s.under(ctx, "t", notes{"slonger": v2, "sshorter": v3}),
			)
			s.wait(1)
			return cmp.Or(err,
				s.under(ctx, "t", notes{"slonger": v2}),
				s.tag(ctx, "t", "sshorter", v1, s.far()), // once more
				s.under(ctx, "t", notes{"slonger": v2, "sshorter": v1}),
			)
		},
	},
	{
		name:  "tag-expires",
		needs: Indexer,
		why:   "an entry is gone at its time, swept or not, and takes none of the others along",
		check: func(ctx context.Context, s *subject) error {
			err := cmp.Or(
				s.tag(ctx, "t", "s1", v1, s.in(1)),
				s.tag(ctx, "t", "s2", v2, s.far()),
				s.tag(ctx, "t", "s3", v3, s.in(1)),
				s.tag(ctx, "tother", "s1", v1, s.far()),
				s.under(ctx, "t", notes{"s1": v1, "s2": v2, "s3": v3}),
			)
			s.wait(1)
			return cmp.Or(err,
				s.under(ctx, "t", notes{"s2": v2}),
				s.under(ctx, "tother", notes{"s1": v1}),
			)
		},
	},
	{
		name:  "tag-lasts",
		needs: Indexer,
		why:   "a tag lasts as long as the latest of its entries: one that goes with its first or its last hides sessions from a logout token (D27)",
		check: func(ctx context.Context, s *subject) error {
			err := cmp.Or(
				s.tag(ctx, "tgrows", "sshort", v1, s.in(1)),
				s.tag(ctx, "tgrows", "slong", v2, s.far()),
				s.tag(ctx, "tkeeps", "slong", v2, s.far()),
				s.tag(ctx, "tkeeps", "sshort", v1, s.in(1)),
			)
			s.wait(2)
			return cmp.Or(err,
				s.under(ctx, "tgrows", notes{"slong": v2}),
				s.under(ctx, "tkeeps", notes{"slong": v2}),
			)
		},
	},
	{
		name:  "untag",
		needs: Indexer,
		why:   "a session that ended leaves its user's list, and no other does",
		check: func(ctx context.Context, s *subject) error {
			return cmp.Or(
				s.untag(ctx, "t", "s1"), // of which nobody has heard
				s.tag(ctx, "t", "s1", v1, s.far()),
				s.tag(ctx, "t", "s2", v2, s.far()),
				s.untag(ctx, "t", "s3"),
				s.untag(ctx, "t", "s1"),
				s.under(ctx, "t", notes{"s2": v2}),
				s.untag(ctx, "t", "s1"),
				s.untag(ctx, "t", "s2"),
				s.under(ctx, "t", nil),
				s.tag(ctx, "t", "s1", v3, s.far()),
				s.under(ctx, "t", notes{"s1": v3}),
			)
		},
	},
	{
		name:  "tag-holds-thousands",
		needs: Indexer,
		why:   "an account that signs in all day is signed out of all of it",
		check: func(ctx context.Context, s *subject) error {
			const n = 5000
			want := make(notes, n)
			for i := range n {
				want[fmt.Sprintf("s%d", i)] = fmt.Append(nil, i)
			}
			far := s.far()
			return cmp.Or(
				together(racers, func(w int) error {
					for i := w; i < n; i += racers {
						key := fmt.Sprintf("s%d", i)
						if err := s.tag(ctx, "t", key, want[key], far); err != nil {
							return err
						}
					}
					return nil
				}),
				s.under(ctx, "t", want),
			)
		},
	},
	{
		name:  "notes-are-bytes",
		needs: Indexer,
		why:   "a sealed note is no text: changed by one byte, it never opens again; and one of no bytes is one",
		check: func(ctx context.Context, s *subject) error {
			all := make([]byte, 256)
			for i := range all {
				all[i] = byte(i)
			}
			want := notes{
				"snil":   nil,
				"sempty": {},
				"szero":  {0},
				"szeros": make([]byte, 256),
				"sall":   all,
				"s255":   all[1:],
				"sodd":   []byte("\x00\r\n'\\\"%s,:\xff\xfe\xc3\x28\xed\xa0\x80 "),
			}
			for key, note := range want {
				if err := s.tag(ctx, "t", key, note, s.far()); err != nil {
					return err
				}
			}
			return s.under(ctx, "t", want)
		},
	},
	{
		name:  "notes-are-copied",
		needs: Indexer,
		why:   "the caller's buffers are used again, for other sessions",
		check: func(ctx context.Context, s *subject) error {
			buf := bytes.Clone(v1)
			err := s.tag(ctx, "t", "s", buf, s.far())
			clear(buf)
			if err := cmp.Or(err, s.under(ctx, "t", notes{"s": v1})); err != nil {
				return err
			}
			buf = append(buf[:0], v2...)
			err = s.tag(ctx, "t", "s", buf, s.far())
			clear(buf)
			return cmp.Or(err, s.under(ctx, "t", notes{"s": v2}))
		},
	},
	{
		name:  "tag-together",
		needs: Indexer,
		why:   "of a user's sign-ins at the same moment, each is found, and sign-outs beside them take none along",
		check: func(ctx context.Context, s *subject) error {
			for round := range rounds / 2 {
				tag := fmt.Sprintf("t%d", round)
				want := make(notes)
				if round%2 == 0 { // else the tag is a new one
					for i := range racers {
						key := fmt.Sprintf("sold%d", i)
						if err := s.tag(ctx, tag, key, v1, s.far()); err != nil {
							return err
						}
						if i%4 != 0 {
							want[key] = v1
						}
					}
				}
				for i := range racers {
					if i%4 != 0 {
						want[fmt.Sprintf("snew%d", i)] = v2
					}
				}
				err := together(racers, func(i int) error {
					if i%4 == 0 {
						return s.untag(ctx, tag, fmt.Sprintf("sold%d", i))
					}
					return s.tag(ctx, tag, fmt.Sprintf("snew%d", i), v2, s.far())
				})
				if err := cmp.Or(err, s.under(ctx, tag, want)); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name:  "ending-by-tag",
		needs: Indexer,
		why:   "no sign-in that races a logout token survives it, by the order of calls alone (D9, D10)",
		check: endingByTag,
	},
	{
		name:  "tag-cancelled-context",
		needs: Indexer,
		why:   "a request that was given up is not waited for, and its error is no answer",
		check: func(ctx context.Context, s *subject) error {
			if err := s.tag(ctx, "t", "s", v1, s.far()); err != nil {
				return err
			}
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			if err := s.Tag(cancelled, "t", "s2", v2, s.far()); err == nil {
				return fmt.Errorf("Tag with a cancelled context returns no error")
			}
			if err := s.Untag(cancelled, "t", "s"); err == nil {
				return fmt.Errorf("Untag with a cancelled context returns no error")
			}
			if got, err := s.Tagged(cancelled, "t"); err == nil || len(got) > 0 {
				return fmt.Errorf("Tagged with a cancelled context = %d keys, %v; want none and an error", len(got), err)
			}
			return s.under(ctx, "t", notes{"s": v1})
		},
	},
}

func tagsApart(ctx context.Context, s *subject) error {
	tags := alike("t")
	want := make(map[string]notes)
	for _, tag := range tags {
		want[tag] = notes{"s": []byte(tag), "sgone": v1}
		for key, note := range want[tag] {
			if err := s.tag(ctx, tag, key, note, s.far()); err != nil {
				return err
			}
		}
	}
	for _, tag := range tags {
		want[tag] = notes{"s": v2}
		if err := cmp.Or(s.tag(ctx, tag, "s", v2, s.far()), s.untag(ctx, tag, "sgone")); err != nil {
			return err
		}
		for _, other := range tags {
			if err := s.under(ctx, other, want[other]); err != nil {
				return fmt.Errorf("after changes to %q: %w", tag, err)
			}
		}
	}

	// So are the keys under one tag.
	keys := alike("s")
	all := make(notes)
	for _, key := range keys {
		all[key] = []byte(key)
		if err := s.tag(ctx, "tkeys", key, all[key], s.far()); err != nil {
			return err
		}
	}
	for _, key := range keys {
		err := s.under(ctx, "tkeys", all)
		delete(all, key)
		if err := cmp.Or(err, s.untag(ctx, "tkeys", key)); err != nil {
			return fmt.Errorf("before %q goes: %w", key, err)
		}
	}

	// And no character is where a tag ends and a key begins.
	for c := '!'; c <= '~'; c++ {
		c := string(c)
		err := cmp.Or(
			s.tag(ctx, "tu", "s"+c+"s", v1, s.far()),
			s.tag(ctx, "tu"+c+"s", "s", v2, s.far()),
			s.under(ctx, "tu", notes{"s" + c + "s": v1}),
			s.under(ctx, "tu"+c+"s", notes{"s": v2}),
			s.untag(ctx, "tu", "s"+c+"s"),
			s.under(ctx, "tu"+c+"s", notes{"s": v2}),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// endingByTag has users sign in while their sessions are being ended. Who signs
// in files the session's tag, then its record, and then looks for a mark. Who
// ends leaves the mark, then looks for tags, and then ends the records.
func endingByTag(ctx context.Context, s *subject) error {
	const enders = 2
	for round := range rounds {
		user, revoked := fmt.Sprintf("tuser%d", round), fmt.Sprintf("trevoked%d", round)
		key := func(i int) string { return fmt.Sprintf("s%d-%d", round, i) }
		end := func(key string) error {
			_, err := s.End(ctx, key, 0, mark, s.far())
			return err
		}
		err := together(racers, func(i int) error {
			if i = (i + round) % racers; i < enders { // by turns, who starts first
				if err := s.tag(ctx, revoked, fmt.Sprintf("j%d", i), nil, s.far()); err != nil {
					return err
				}
				found, err := s.Tagged(ctx, user)
				for key := range found {
					err = cmp.Or(err, end(key))
				}
				return err
			}
			err := cmp.Or(
				s.tag(ctx, user, key(i), nil, s.far()),
				s.create(ctx, key(i), v1, s.far(), s.far()),
			)
			if err != nil {
				return err
			}
			marks, err := s.Tagged(ctx, revoked)
			if len(marks) > 0 {
				err = cmp.Or(err, end(key(i)))
			}
			return err
		})
		for i := enders; i < racers; i++ {
			err = cmp.Or(err, s.marked(ctx, key(i), mark))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
