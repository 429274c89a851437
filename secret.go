package bff

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/agglestone/bff/internal/seal"
)

const redacted = "[redacted]"

// A Secret is a string that doesn't print: fmt, log/slog and encoding/json
// show it as [redacted]. Reveal gives the text.
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// Format prints "[redacted]", whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// A Key seals and authenticates: 32 random bytes. It doesn't print. The zero
// Key is not usable. Make one with [NewKey] or openssl rand -base64 32.
type Key struct{ bytes []byte }

// NewKey returns a fresh random key.
func NewKey() Key {
	k := Key{make([]byte, seal.KeySize)}
	rand.Read(k.bytes)
	return k
}

// ParseKey reads a key from base64, standard or URL-safe, padded or not.
func ParseKey(s string) (Key, error) {
	s = strings.NewReplacer("-", "+", "_", "/", "=", "").Replace(strings.TrimSpace(s))
	b, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return Key{}, fmt.Errorf("bff: key is not base64 (make one with: openssl rand -base64 32)")
	}
	if len(b) != seal.KeySize { // check:parse-key-size
		return Key{}, fmt.Errorf("bff: key has %d bytes, not %d (make one with: openssl rand -base64 32)", len(b), seal.KeySize)
	}
	return Key{b}, nil
}

// ParseKeys reads keys in base64, separated by commas: the first seals, all
// open. An empty s gives no keys. It reports every one that can't be read.
func ParseKeys(s string) ([]Key, error) {
	var keys []Key
	var errs []error
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	for i, field := range strings.Split(s, ",") {
		k, err := ParseKey(field)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: key %d", err, i+1))
		}
		keys = append(keys, k)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return keys, nil
}

// Reveal returns the key in base64, as ParseKey reads it.
func (k Key) Reveal() string { return base64.StdEncoding.EncodeToString(k.bytes) }

// String returns "[redacted]".
func (k Key) String() string { return redacted }

// Format prints "[redacted]", whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer].
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
