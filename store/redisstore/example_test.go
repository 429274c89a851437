package redisstore_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/redis/rueidis"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/store/redisstore"
)

// Two replicas of an application share their sessions: each opens the same
// store, and has the same keys.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// Such as rediss://bff:password@redis.example.com:6379
	store, err := redisstore.Open(ctx, os.Getenv("REDIS_URL"), redisstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	keys, err := bff.ParseKeys(os.Getenv("BFF_KEYS"))
	if err != nil {
		log.Fatal(err)
	}
	auth, err := bff.New(ctx, bff.Config{
		Issuer:      os.Getenv("ISSUER"),
		ClientID:    os.Getenv("CLIENT_ID"),
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        keys,
		Store:       store,
	})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(":8080", auth.Routes(nil)))
}

// The URL of a master that three sentinels watch.
func ExampleOpen_sentinel() {
	store, err := redisstore.Open(context.Background(),
		"rediss://bff:password@sentinel1?addr=sentinel2&addr=sentinel3&master_set=sessions", redisstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
}

// The URL of a Cluster names some of its nodes.
func ExampleOpen_cluster() {
	store, err := redisstore.Open(context.Background(),
		"rediss://bff:password@node1:6379?addr=node2:6379&addr=node3:6379", redisstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
}

// An application that has a rueidis client shares its connections.
func ExampleNew() {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"redis.example.com:6379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	store, err := redisstore.New(client, redisstore.Options{Prefix: "myapp:session:"})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
}
