package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
)

var valueRules = []rule{
	{
		name: "values-of-every-size",
		why:  "a session with large tokens is as good as any other",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			if err := cmp.Or(s.create(ctx, "snil", nil, far, far), s.holds(ctx, "snil", nil, far)); err != nil {
				return err
			}
			for _, size := range []int{0, 1, 64 << 10, 1 << 20} {
				key := fmt.Sprintf("s%d", size)
				value := bytes.Repeat([]byte{0xa5}, size)
				if err := cmp.Or(s.create(ctx, key, value, far, far), s.holds(ctx, key, value, far)); err != nil {
					return err
				}
				was, err := s.live(ctx, key)
				if err != nil {
					return err
				}
				value = bytes.Repeat([]byte{0x5a}, size)
				_, err = s.replace(ctx, key, was.version, value)
				if err := cmp.Or(err, s.holds(ctx, key, value, far)); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "values-are-bytes",
		why:  "a sealed record is no text: changed by one byte, it never opens again",
		check: func(ctx context.Context, s *subject) error {
			value := []byte("\x00\r\n'\\\"%s\xff\xfe\xc3\x28\xed\xa0\x80 ")
			for b := range 256 {
				value = append(value, byte(b))
			}
			far := s.far()
			return cmp.Or(
				s.create(ctx, "s", value, far, far),
				s.holds(ctx, "s", value, far),
				s.end(ctx, "s", 0, value[:64], far),
				s.marked(ctx, "s", value[:64]),
			)
		},
	},
	{
		name: "values-are-copied",
		why:  "the caller's buffers are used again, for other sessions",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			buf := append(make([]byte, 0, 64), v1...)
			err := s.create(ctx, "s", buf, far, far)
			_ = append(buf, "more"...)
			clear(buf)
			if err := cmp.Or(err, s.holds(ctx, "s", v1, far)); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			buf = append(buf[:0], v2...)
			_, err = s.replace(ctx, "s", was.version, buf)
			clear(buf)
			if err := cmp.Or(err, s.holds(ctx, "s", v2, far)); err != nil {
				return err
			}
			buf = append(buf[:0], mark...)
			err = s.end(ctx, "s", 0, buf, far)
			clear(buf)
			return cmp.Or(err, s.marked(ctx, "s", mark))
		},
	},
	{
		name: "loaded-values-stay",
		why:  "a request works with the record it loaded while others replace and end it",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			if err := s.create(ctx, "s", v1, far, far); err != nil {
				return err
			}
			first, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			_ = append(first.value, "more"...)
			if _, err := s.replace(ctx, "s", first.version, v2); err != nil {
				return err
			}
			second, err := s.live(ctx, "s")
			if err := cmp.Or(err, s.end(ctx, "s", 0, mark, far)); err != nil {
				return err
			}
			if !bytes.Equal(first.value, v1) || !bytes.Equal(second.value, v2) {
				return fmt.Errorf("the values loaded became %s and %s, want %s and %s",
					short(first.value), short(second.value), short(v1), short(v2))
			}
			return nil
		},
	},
}
