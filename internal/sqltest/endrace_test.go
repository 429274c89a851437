package sqltest

import (
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/endrace"
)

// Ends of sessions win over whatever is under way, on replicas with a pool each.
func TestEndRace(t *testing.T) {
	for name, start := range map[string]func(*testing.T) engine{
		"PostgreSQL": func(t *testing.T) engine { e, _ := postgres(t); return e },
		"MariaDB":    func(t *testing.T) engine { e, _ := mariaDB(t); return e },
		"SQLite":     func(t *testing.T) engine { return sqlite(t) },
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t).named()
			handle := func(int) bff.Store { return e.on(t, e.open(t)) }
			for how, opts := range map[string]endrace.Options{
				"read anew": {},
				"cached":    {CacheMaxStale: 200 * time.Millisecond, Workers: 8},
			} {
				t.Run(how, func(t *testing.T) { endrace.Run(t, handle, opts) })
			}
		})
	}
}
