package sqlstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Dialect is what a database speaks.
type Dialect int

const (
	Postgres Dialect = iota + 1 // PostgreSQL 13 and later
	MySQL                       // MySQL 8, MariaDB 10.6 and later
	SQLite                      // SQLite 3.24 and later
)

func (d Dialect) String() string {
	switch d {
	case Postgres:
		return "PostgreSQL"
	case MySQL:
		return "MySQL"
	case SQLite:
		return "SQLite"
	}
	return "Dialect(" + strconv.Itoa(int(d)) + ")"
}

// The database's clock in microseconds. At the moment in question, where the
// engine can tell; MySQL's and SQLite's is that of the statement's beginning.
var clocks = map[Dialect]string{
	Postgres: `CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)`,
	// In UTC, and without a zone on either side: UNIX_TIMESTAMP(NOW(6)) goes
	// through the session's, which has an hour twice in autumn.
	MySQL: `TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))`,
	// unixepoch('subsec') needs SQLite 3.42.
	SQLite: `(1000 * CAST(ROUND((JULIANDAY('now') - 2440587.5) * 86400000) AS INTEGER))`,
}

// The same, for comparisons that are to use an index: PostgreSQL takes a clock
// that moves on during the statement for one that must be read row by row.
var steadyClocks = map[Dialect]string{
	Postgres: `CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)`,
	MySQL:    clocks[MySQL],
	SQLite:   clocks[SQLite],
}

// expand puts the dialect's words and the tables' names into text, and numbers
// the parameters where the dialect wants that.
func expand(d Dialect, prefix, text string) string {
	greatest, least, byKey := "GREATEST", "LEAST", ""
	switch d {
	case SQLite:
		greatest, least = "MAX", "MIN"
	case MySQL:
		// It might come by another index, which has the key too, and would lock
		// the gaps there, where others insert.
		byKey = " FORCE INDEX (PRIMARY)"
	}
	_, unqualified, qualified := strings.Cut(prefix, ".")
	if !qualified {
		unqualified = prefix
	}
	text = strings.NewReplacer(
		"{prefix}", prefix,
		"{index}", unqualified, // an index lives where its table does
		"{now}", clocks[d],
		"{steady}", steadyClocks[d],
		"{greatest}", greatest,
		"{least}", least,
		"{by key}", byKey,
	).Replace(text)
	if d != Postgres {
		return text
	}
	var b strings.Builder
	for n, part := range strings.Split(text, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
	}
	return b.String()
}

// statements returns the text of every statement of a Store. Each decides and
// changes in one step, by the database's clock. In a live record, ended is NULL.
func statements(d Dialect, prefix string) map[string]string {
	texts := map[string]string{
		"load": `SELECT value, version, expires, ended FROM {prefix}records
			WHERE record_key = ? AND expires > {now}`,

		"create": `INSERT INTO {prefix}records AS r (record_key, value, version, expires, deadline)
			VALUES (?, ?, {now}, ?, ?)
			ON CONFLICT (record_key) DO UPDATE
			SET value = excluded.value, version = {greatest}(r.version + 1, excluded.version),
				expires = excluded.expires, deadline = excluded.deadline, ended = NULL
			WHERE r.expires <= {now}`,

		"replace": `UPDATE {prefix}records{by key} SET value = ?, version = version + 1
			WHERE record_key = ? AND version = ? AND ended IS NULL AND expires > {now}`,

		"touch": `UPDATE {prefix}records{by key} SET expires = {greatest}(expires, {least}(?, deadline))
			WHERE record_key = ? AND ended IS NULL AND expires > {now}`,

		"live": `SELECT 1 FROM {prefix}records
			WHERE record_key = ? AND ended IS NULL AND expires > {now}`,

		"end": `UPDATE {prefix}records{by key} SET value = ?, version = version + 1, ended = {now}, expires = ?
			WHERE record_key = ? AND ended IS NULL AND expires > {now}`,

		"end at": `UPDATE {prefix}records{by key} SET value = ?, version = version + 1, ended = {now}, expires = ?
			WHERE record_key = ? AND version = ? AND ended IS NULL AND expires > {now}`,

		"tag": `INSERT INTO {prefix}tags (tag, record_key, note, expires) VALUES (?, ?, ?, ?)
			ON CONFLICT (tag, record_key) DO UPDATE SET note = excluded.note, expires = excluded.expires`,

		"tagged": `SELECT record_key, note FROM {prefix}tags WHERE tag = ? AND expires > {now}`,

		"untag": `DELETE FROM {prefix}tags WHERE tag = ? AND record_key = ?`,

		"now": `SELECT {steady}`,

		// The time, and all the rest in as many rows as there are or in one.
		"ended": `SELECT clock.t, e.record_key, e.ended FROM (SELECT {steady} AS t) clock
			LEFT JOIN (SELECT record_key, ended FROM {prefix}records
				WHERE ended >= ? AND expires > {steady} ORDER BY ended LIMIT {page}) e ON 1 = 1
			ORDER BY e.ended`,

		"since": `SELECT applied FROM {prefix}schema WHERE version = 1`,
	}
	if d == MySQL {
		texts["create"] = `INSERT IGNORE INTO {prefix}records (record_key, value, version, expires, deadline)
			VALUES (?, ?, {now}, ?, ?)`

		texts["take over"] = `UPDATE {prefix}records{by key}
			SET value = ?, version = GREATEST(version + 1, {now}), expires = ?, deadline = ?, ended = NULL
			WHERE record_key = ? AND expires <= {now}`

		// VALUES() is deprecated in MySQL, and what replaces it not in MariaDB.
		texts["tag"] = `INSERT INTO {prefix}tags (tag, record_key, note, expires) VALUES (?, ?, ?, ?)
			ON DUPLICATE KEY UPDATE note = ?, expires = ?`
	}
	for op, text := range texts {
		texts[op] = expand(d, prefix, strings.ReplaceAll(text, "{page}", strconv.Itoa(endedPage)))
	}
	return texts
}

// check checks what goes into every statement.
func check(d Dialect, prefix string) error {
	if d < Postgres || d > SQLite {
		return fmt.Errorf("sqlstore: %v is none of Postgres, MySQL and SQLite", d)
	}
	schema, name, qualified := strings.Cut(prefix, ".")
	if !qualified {
		name = schema
	}
	if !isName(name) || qualified && (!isName(schema) || d == SQLite) {
		return errors.New("sqlstore: Options.Prefix must be a lower-case letter and up to 31 lower-case letters, digits and underscores; " +
			"a schema of that form and a dot may stand in front, except for SQLite")
	}
	return nil
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 32
}
