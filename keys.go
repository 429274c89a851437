package bff

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// SetKeys replaces the keys, as Config.Keys would be: the first seals, all
// open. Sessions whose key is no longer among them end. It reports every
// mistake at once, each as a [*ConfigError], and then changes nothing. A
// Config.KeySource, if there is one, replaces them again when its answer changes.
func (b *BFF) SetKeys(keys ...Key) error {
	c := &checker{}
	if len(keys) == 0 {
		c.add("Keys", "is empty; make a key with openssl rand -base64 32")
	}
	ring := c.ring(keys, b.cfg.Issuer, b.cfg.ClientID)
	if err := c.err(); err != nil {
		return err
	}
	b.ring.Store(ring)
	b.streams.touchedAll()
	b.emit(context.Background(), nil, Event{Kind: KeysChanged})
	return nil
}

// followKeys asks Config.KeySource for the keys until ctx ends.
func (b *BFF) followKeys(ctx context.Context) {
	known := newKeyHistory(b.cfg.Keys)
	every := b.cfg.KeySourceEvery
	for sleep(ctx, every) {
		askCtx, cancel := context.WithTimeout(ctx, every)
		keys, err := b.cfg.KeySource(askCtx)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				b.log.LogAttrs(ctx, slog.LevelError, "KeySource failed; the keys stay", slog.Any("err", err))
			}
			continue
		}
		next, ordered := known.observe(keys)
		if !slices.EqualFunc(ordered, known.set, sameKey) {
			if err := b.SetKeys(ordered...); err != nil {
				b.log.LogAttrs(ctx, slog.LevelError, "KeySource returned keys that can't be used; the keys stay", slog.Any("err", err))
				continue
			}
		}
		known = next
	}
}

// A keyHistory decides which of the keys that a source returns may seal: not
// one that other replicas may have to hear of yet. It doesn't change.
type keyHistory struct {
	seen map[string]int // how many answers in a row had the key
	set  []Key          // what was made of the last answer
}

// provenAfter is how many answers must have had a key: two periods lie between
// the first and the third.
const provenAfter = 3

func newKeyHistory(start []Key) *keyHistory {
	h := &keyHistory{seen: make(map[string]int), set: start}
	for _, k := range start {
		// They were there before this process. How long, it can't know.
		h.seen[string(k.bytes)] = provenAfter
	}
	return h
}

// observe returns the history with one more answer, and its keys, with the one
// in front that is to seal: the first that has been seen for long enough.
func (h *keyHistory) observe(keys []Key) (next *keyHistory, ordered []Key) {
	next = &keyHistory{seen: make(map[string]int)}
	for _, k := range keys {
		next.seen[string(k.bytes)] = min(h.seen[string(k.bytes)]+1, provenAfter)
	}
	sealing := 0
	for i, k := range keys {
		if next.seen[string(k.bytes)] > next.seen[string(keys[sealing].bytes)] {
			sealing = i
		}
	}
	ordered = slices.Clone(keys)
	if sealing > 0 {
		front := ordered[sealing]
		ordered = slices.Insert(slices.Delete(ordered, sealing, sealing+1), 0, front)
	}
	next.set = ordered
	return next, ordered
}

func sameKey(a, b Key) bool { return string(a.bytes) == string(b.bytes) }

// keySourceTimeout bounds the first answer, which New waits for.
const keySourceTimeout = 30 * time.Second
