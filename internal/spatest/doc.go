// Package spatest runs package spa with what it is for: a frontend that the real
// Vite builds, or serves while it is being edited, in a real browser, behind the
// routes of package bff with the issuer of bfftest.
//
// Node and Chromium must be installed and frontend/node_modules filled; from the
// root of the repository, "make setup" does that and "make e2e" runs the tests.
// Everything is on loopback, and the frontend's sources are copied before they
// are edited.
package spatest
