// Package redisstore keeps session records in Redis 7 or Valkey, for a BFF that
// runs as several replicas:
//
//	store, err := redisstore.Open(ctx, "rediss://bff:password@redis.example.com:6379", redisstore.Options{})
//	if err != nil {
//		return err
//	}
//	defer store.Close()
//	auth, err := bff.New(ctx, bff.Config{Store: store, ...})
//
// An application that has a rueidis client already calls [New] instead. A client
// of another library can't be shared: this one sends everybody's commands on one
// connection, which makes a GET at 64 goroutines cost half of what it costs with
// go-redis, measured.
//
// # Deployments
//
// One server is enough for many sessions: it takes some 3.5 KB for each, and a
// request reads one. Without a replica, its restart is an outage: requests with
// a session are answered with 503 until it is back, and nobody is signed out
// unless it lost its data.
//
// With Sentinel, a replica takes over when the master fails. With Cluster, that
// is so too, and the sessions are spread over many servers: every session has
// its own hash slot, and so has every tag. The Store finds the master by itself
// and follows it. Name all sentinels, or a few nodes of the Cluster, in the URL.
//
// The server's clock decides on expiry, so its clock should be right. Those of
// the replicas of the application matter to bff, not here.
//
// # Memory and eviction
//
// Set maxmemory-policy to noeviction. Any other policy makes room by dropping
// sessions, which signs people out, or the tags by which they are found, which
// lets them stay signed in when they should not. A full server then refuses new
// sign-ins; sessions that are there are still read, extended, refreshed and
// ended. Everything that is written expires by itself, but for a few bytes.
//
// # Persistence and failover
//
// Without persistence, a restart of the server signs everybody out. With an
// append-only file (appendonly yes) it loses the last second; appendfsync always
// loses nothing and costs a write to the disk for each change. Snapshots alone
// (save) lose minutes: then sessions that were ended are back, and refresh
// tokens that were rotated, whose second use makes an issuer revoke the grant.
//
// Replication is asynchronous, so a failover can lose what the master had
// acknowledged: a session that was ended may be back, and a rotated refresh token
// be lost, which costs that session. To make that rare, Replace and End wait
// until a replica has what they wrote, for [Options].ReplicaWait at most; where
// there are none they don't. A master that is cut off from its replicas goes on
// alone unless it is told not to: set min-replicas-to-write 1 and
// min-replicas-max-lag 10. A master without persistence must not be started
// again at once: it comes back empty, and until the others have told it that it
// is a replica now, somebody may believe it.
//
// No read goes to a replica, but for the second or so in which a client has not
// heard yet that its master has become one.
//
// # Faults
//
// Every call is bounded by its context. A server that can't be reached, is
// read-only, full, loading or without quorum is an error, never absence. A read
// whose connection broke is sent again, a few times. A write never is: it may
// have been done.
//
// # Permissions
//
// A user needs these commands, its own keys and no channels:
//
//	ACL SETUSER bff on >password ~bff:* resetchannels -@all \
//	  +hello +ping +role +wait +time +info +client|tracking \
//	  +cluster|slots +cluster|shards +cluster|nodes +asking \
//	  +eval +evalsha +get +set +getrange +setrange +pexpireat +pexpiretime \
//	  +hset +hdel +hgetall +zadd +zrem +zrange +zcard +zremrangebyrank
//
// A client that the application brings needs what it sends by itself too.
//
// # Keys
//
// With the prefix "bff:", a record is the string "bff:" and its key; a tag is
// the sorted set "bff:{tag}until" and the hash "bff:{tag}notes"; "bff:#ended" is
// the list of the sessions that were ended lately, and "bff:#since" the time
// since when the server has forgotten nothing. Values and notes arrive sealed
// and keys are digests, so the server's operator reads none of it.
package redisstore
