package sqlstore

import (
	"context"
	"database/sql"
	"hash/fnv"
	"strings"
)

// migrations are the statements that lead to each version of the schema, the
// first to version 1. A statement that was run already must change nothing,
// since where DDL can't be part of a transaction, two replicas may run it, and
// it may be run again after a crash. The last files the version.
//
// What comes later must leave the statements of every earlier release of this
// major version working: replicas are not replaced all at once.
var migrations = map[Dialect][][]string{
	Postgres: {{
		`CREATE TABLE IF NOT EXISTS {prefix}schema (
	version integer NOT NULL PRIMARY KEY,
	applied bigint NOT NULL -- all times are microseconds since 1970, UTC
)`,
		// Keys are ASCII, compared byte by byte. The room left in each page is
		// for new versions of its rows, so that a refresh touches no index.
		`CREATE TABLE IF NOT EXISTS {prefix}records (
	record_key text COLLATE "C" NOT NULL PRIMARY KEY,
	value bytea NOT NULL,     -- sealed; after the end, why it ended
	version bigint NOT NULL,
	expires bigint NOT NULL,
	deadline bigint NOT NULL, -- expires never moves past it
	ended bigint              -- NULL: live
) WITH (fillfactor = 90)`,
		// Sealed values don't compress.
		`ALTER TABLE {prefix}records ALTER COLUMN value SET STORAGE EXTERNAL`,
		`CREATE INDEX IF NOT EXISTS {index}records_expires ON {prefix}records (expires)`,
		`CREATE INDEX IF NOT EXISTS {index}records_ended ON {prefix}records (ended) WHERE ended IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS {prefix}tags (
	tag text COLLATE "C" NOT NULL,
	record_key text COLLATE "C" NOT NULL,
	note bytea NOT NULL,
	expires bigint NOT NULL,
	PRIMARY KEY (tag, record_key)
)`,
		`CREATE INDEX IF NOT EXISTS {index}tags_expires ON {prefix}tags (expires)`,
		`INSERT INTO {prefix}schema (version, applied) VALUES (1, {now}) ON CONFLICT (version) DO NOTHING`,
	}},
	MySQL: {{
		`CREATE TABLE IF NOT EXISTS {prefix}schema (
	version INT NOT NULL PRIMARY KEY,
	applied BIGINT NOT NULL -- all times are microseconds since 1970, UTC
) ENGINE=InnoDB`,
		// VARBINARY: no collation, no padding.
		`CREATE TABLE IF NOT EXISTS {prefix}records (
	record_key VARBINARY(64) NOT NULL PRIMARY KEY,
	value MEDIUMBLOB NOT NULL, -- sealed; after the end, why it ended
	version BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	deadline BIGINT NOT NULL,  -- expires never moves past it
	ended BIGINT NULL,         -- NULL: live
	INDEX {index}records_expires (expires),
	INDEX {index}records_ended (ended)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC`,
		`CREATE TABLE IF NOT EXISTS {prefix}tags (
	tag VARBINARY(64) NOT NULL,
	record_key VARBINARY(64) NOT NULL,
	note VARBINARY(256) NOT NULL,
	expires BIGINT NOT NULL,
	PRIMARY KEY (tag, record_key),
	INDEX {index}tags_expires (expires)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC`,
		`INSERT IGNORE INTO {prefix}schema (version, applied) VALUES (1, {now})`,
	}},
	SQLite: {{
		`CREATE TABLE IF NOT EXISTS {prefix}schema (
	version INTEGER NOT NULL PRIMARY KEY,
	applied INTEGER NOT NULL -- all times are microseconds since 1970, UTC
)`,
		`CREATE TABLE IF NOT EXISTS {prefix}records (
	record_key TEXT NOT NULL PRIMARY KEY,
	value BLOB NOT NULL,       -- sealed; after the end, why it ended
	version INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	deadline INTEGER NOT NULL, -- expires never moves past it
	ended INTEGER              -- NULL: live
)`,
		`CREATE INDEX IF NOT EXISTS {index}records_expires ON {prefix}records (expires)`,
		`CREATE INDEX IF NOT EXISTS {index}records_ended ON {prefix}records (ended) WHERE ended IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS {prefix}tags (
	tag TEXT NOT NULL,
	record_key TEXT NOT NULL,
	note BLOB NOT NULL,
	expires INTEGER NOT NULL,
	PRIMARY KEY (tag, record_key)
)`,
		`CREATE INDEX IF NOT EXISTS {index}tags_expires ON {prefix}tags (expires)`,
		`INSERT INTO {prefix}schema (version, applied) VALUES (1, {now}) ON CONFLICT (version) DO NOTHING`,
	}},
}

// Schema returns the definition of the tables as SQL text, for an application
// that applies its migrations by other means than [Store.Migrate]. Each of its
// statements changes nothing if it was applied before. An empty prefix means
// "bff_"; see Options.Prefix.
func Schema(dialect Dialect, prefix string) (string, error) {
	if prefix == "" {
		prefix = "bff_"
	}
	if err := check(dialect, prefix); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, statements := range migrations[dialect] {
		for _, text := range statements {
			b.WriteString(expand(dialect, prefix, text) + ";\n")
		}
	}
	return b.String(), nil
}

// Migrate creates the tables, or brings them to this version of the package.
// Replicas may call it all at once. If there is nothing to do it only reads,
// and a schema made by a later version is left as it is.
func (s *Store) Migrate(ctx context.Context) error {
	// An error most likely means that there is no schema yet. If it means
	// anything else, what follows fails too.
	var version int
	text := expand(s.dialect, s.prefix, "SELECT COALESCE(MAX(version), 0) FROM {prefix}schema")
	if err := s.db.QueryRowContext(ctx, text).Scan(&version); err != nil {
		version = 0
	}
	if version >= len(migrations[s.dialect]) {
		return nil
	}
	if s.dialect != Postgres {
		return s.migrate(ctx, s.db, version)
	}
	// PostgreSQL's IF NOT EXISTS fails if another session creates the same
	// thing, so they take turns. The lock goes with the transaction.
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return failed("migrate", err)
	}
	defer tx.Rollback()
	h := fnv.New64a()
	h.Write([]byte("github.com/agglestone/bff/store/sqlstore " + s.prefix))
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", int64(h.Sum64())); err != nil {
		return failed("migrate", err)
	}
	if err := s.migrate(ctx, tx, version); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return failed("migrate", err)
	}
	return nil
}

// migrate runs the migrations that follow a version of the schema.
func (s *Store) migrate(ctx context.Context, h execer, version int) error {
	for _, statements := range migrations[s.dialect][version:] {
		for _, text := range statements {
			if _, err := h.ExecContext(ctx, expand(s.dialect, s.prefix, text)); err != nil {
				return failed("migrate", err)
			}
		}
	}
	return nil
}

// An execer is a database or a transaction.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}
