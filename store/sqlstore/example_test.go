package sqlstore_test

import (
	"context"
	"database/sql"
	"log"
	"os"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/store/sqlstore"
)

// Sessions in the database that the application has already. A driver must be
// imported, such as github.com/jackc/pgx/v5/stdlib.
func ExampleNew() {
	ctx := context.Background()
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	store, err := sqlstore.New(db, sqlstore.Postgres, sqlstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	keys, err := bff.ParseKeys(os.Getenv("BFF_KEYS"))
	if err != nil {
		log.Fatal(err)
	}
	auth, err := bff.New(ctx, bff.Config{
		Issuer: os.Getenv("ISSUER"), ClientID: os.Getenv("CLIENT_ID"), RedirectURL: os.Getenv("REDIRECT_URL"),
		Keys: keys, Store: store,
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = auth
}
