package storetest

import "github.com/agglestone/bff"

// What is tested is what bff asks for: where one of them changes, this doesn't
// compile.
var (
	_ Store      = bff.Store(nil)
	_ bff.Store  = Store(nil)
	_ indexer    = bff.Indexer(nil)
	_ watcher    = bff.Watcher(nil)
	_ endLog     = bff.EndLog(nil)
	_ rememberer = bff.Rememberer(nil)

	_ bff.Indexer    = indexer(nil)
	_ bff.Watcher    = watcher(nil)
	_ bff.EndLog     = endLog(nil)
	_ bff.Rememberer = rememberer(nil)
)
