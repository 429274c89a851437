package sqlstore

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

// endedPage is how many keys Ended returns at most. It is more than can be
// ended within one tick of the slowest clock, SQLite's millisecond, so that a
// page never begins and ends at the same time.
const endedPage = 4000

// endedLag is how far behind the present a caller of Ended asks again, since a
// row's time is taken before others can see the row. It is more than callers of
// End wait.
const endedLag = 5 * time.Second

// Tag files key under tag with a note, until the given time. To file a key
// again replaces its note and its time.
func (s *Store) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	if err := checkKey("tag", tag); err != nil {
		return err
	}
	if err := checkKey("key", key); err != nil {
		return err
	}
	if err := checkLen("note", note, 0, maxNote); err != nil {
		return err
	}
	note = bytes(note)
	args := []any{tag, key, note, micros(until)}
	if s.dialect == MySQL {
		args = append(args, note, micros(until))
	}
	_, err := s.exec(ctx, &s.tag, args...)
	return err
}

// Tagged returns the notes of the keys that are filed under tag, by key.
func (s *Store) Tagged(ctx context.Context, tag string) (notes map[string][]byte, err error) {
	notes = map[string][]byte{}
	err = s.rows(ctx, &s.tagged, []any{tag}, func(rows *sql.Rows) error {
		var key string
		var note []byte
		err := rows.Scan(&key, &note)
		notes[key] = note
		return err
	})
	if err != nil {
		return nil, err
	}
	return notes, nil
}

// Untag takes key out of tag, if it is there.
func (s *Store) Untag(ctx context.Context, tag, key string) error {
	_, err := s.exec(ctx, &s.untag, tag, key)
	return err
}

// Ended returns the keys of the sessions that were ended at or after since and
// whose marks are still kept, the earliest first and 4,000 at most, and the
// time to ask from next. Both are times of the database's clock; a zero since
// asks for none but the time.
//
// The time to ask from next is five seconds back, or that of the last key if
// there may be more. So a caller who asks every second gets each key some five
// times, and misses none unless the database took longer than that to commit
// one.
func (s *Store) Ended(ctx context.Context, since time.Time) (keys []string, next time.Time, err error) {
	var now int64
	if since.IsZero() {
		if err := s.row(ctx, &s.now, nil, &now); err != nil {
			return nil, time.Time{}, err
		}
		return nil, time.UnixMicro(now).Add(-endedLag), nil
	}
	var n int
	var last sql.NullInt64
	err = s.rows(ctx, &s.ended, []any{micros(since)}, func(rows *sql.Rows) error {
		var key sql.NullString
		if err := rows.Scan(&now, &key, &last); err != nil {
			return err
		}
		if n++; strings.HasPrefix(key.String, "s") {
			keys = append(keys, key.String)
		}
		return nil
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	if n == endedPage {
		return keys, time.UnixMicro(last.Int64), nil
	}
	return keys, time.UnixMicro(now).Add(-endedLag), nil
}

// Since returns the time since when the database has forgotten nothing: that
// of its schema's creation. Who empties the tables or restores a backup may
// set the column applied in the table bff_schema to the time of that.
func (s *Store) Since(ctx context.Context) (time.Time, error) {
	var applied int64
	if err := s.row(ctx, &s.since, nil, &applied); err != nil {
		if err == sql.ErrNoRows {
			err = failed("since", errNoSchema)
		}
		return time.Time{}, err
	}
	return time.UnixMicro(applied), nil
}
