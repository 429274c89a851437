// Package routers proves what README.md says about routers. It has tests only,
// in a module of its own, so that nobody else gets the routers.
package routers
