// Package sqltest tests store/sqlstore with real databases: PostgreSQL, alone
// and behind PgBouncer in transaction mode, MariaDB, and SQLite.
package sqltest
