package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
)

var keyRules = []rule{
	{
		name:  "keys-of-every-kind",
		why:   "a key may have any printable ASCII character anywhere and 64 of them",
		check: keysOfEveryKind,
	},
	{
		name:  "keys-apart",
		why:   "what happens to one session happens to no other, however alike the keys are",
		check: keysApart,
	},
	{
		name:  "many-keys",
		why:   "a store holds as many sessions as it says, and mixes up none",
		check: manyKeys,
	},
}

func keysOfEveryKind(ctx context.Context, s *subject) error {
	var keys []string
	for _, kind := range "satj" {
		for c := '!'; c <= '~'; c++ {
			keys = append(keys, fmt.Sprintf("%c%c", kind, c))
		}
		long := []byte{byte(kind)}
		for i := range 63 {
			long = append(long, byte('~'-i))
		}
		keys = append(keys, string(kind), string(long))
	}
	far := s.far()
	for _, key := range keys {
		if err := cmp.Or(s.create(ctx, key, []byte(key), far, far), s.taken(ctx, key)); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if err := s.holds(ctx, key, []byte(key), far); err != nil {
			return err
		}
	}
	return nil
}

// alike returns keys of one kind that a careless store takes for one another.
func alike(kind string) []string {
	long := string(bytes.Repeat([]byte("x"), 62))
	keys := []string{
		"Ab", "ab", "AB", // letters matter
		"ab-", "ab_", "ab%", "ab*", "ab?", "[ab]", // and wildcards are none
		"a", "abc", ":ab", ":ab:", // parts of one another
		long + "1", long + "2", // 64 bytes, all of them
		"a'b", `a"b`, "a`b", `a\b`, "a;b", "a{b}c", "a{b}d",
	}
	for i, key := range keys {
		keys[i] = kind + key
	}
	return keys
}

func keysApart(ctx context.Context, s *subject) error {
	keys := append(alike("s"), "aAb", "tab", "jab") // of other kinds
	far := s.far()
	var records []found
	for _, key := range keys {
		if err := s.create(ctx, key, []byte(key), s.in(1000), far); err != nil {
			return err
		}
		r, err := s.live(ctx, key)
		if err != nil {
			return err
		}
		records = append(records, r)
	}
	for i, key := range keys {
		next, err := s.replace(ctx, key, records[i].version, v2)
		err = cmp.Or(err,
			s.touch(ctx, key, far),
			s.same(ctx, key, found{v2, next, far}),
			s.end(ctx, key, next, mark, far),
			s.marked(ctx, key, mark),
		)
		if err != nil {
			return err
		}
		for j := i + 1; j < len(keys); j++ {
			if err := s.same(ctx, keys[j], records[j]); err != nil {
				return fmt.Errorf("after changes to %q: %w", key, err)
			}
		}
	}
	for _, key := range keys {
		if err := s.marked(ctx, key, mark); err != nil {
			return err
		}
	}
	return nil
}

func manyKeys(ctx context.Context, s *subject) error {
	far := s.far()
	key := func(i int) string { return fmt.Sprintf("s%07x", i) }
	const workers = 16
	each := func(f func(i int) error) error {
		return together(workers, func(w int) error {
			for i := w; i < s.opts.Keys; i += workers {
				if err := f(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmp.Or(
		each(func(i int) error {
			return s.create(ctx, key(i), []byte(key(i)), far, far)
		}),
		each(func(i int) error {
			if i%10 != 0 {
				return nil
			}
			return s.end(ctx, key(i), 0, mark, far)
		}),
		each(func(i int) error {
			if i%10 == 0 {
				return s.marked(ctx, key(i), mark)
			}
			return s.holds(ctx, key(i), []byte(key(i)), far)
		}),
	)
}
