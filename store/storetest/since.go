package storetest

import (
	"context"
	"fmt"
	"time"
)

var sinceRules = []rule{
	{
		name:  "since",
		needs: Rememberer,
		why:   "who idled out is told so by every replica, and nobody is by a store that has just lost everything",
		check: func(ctx context.Context, s *subject) error {
			first, err := s.Since(ctx)
			if err != nil {
				return fmt.Errorf("Since: %w", err)
			}
			if first.IsZero() || first.After(time.Now().Add(precision)) {
				return fmt.Errorf("Since = %v at %v, want a time in the past", first, time.Now())
			}
			if err := s.create(ctx, "s", v1, s.in(1), s.far()); err != nil {
				return err
			}
			s.wait(1)
			for range 8 {
				again, err := s.Since(ctx)
				if err != nil || again.Sub(first).Abs() > precision {
					return fmt.Errorf("Since = %v, %v; want %v as before", again, err, first)
				}
			}
			return nil
		},
	},
}
