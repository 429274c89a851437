package main

import (
	"errors"
	"net/http"
	"os"
	"strings"
)

// openSPA opens the directory of a single-page application.
func openSPA(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if info, err := root.Stat("index.html"); err != nil || !info.Mode().IsRegular() {
		root.Close()
		return nil, errors.New(dir + " has no index.html")
	}
	return root, nil
}

// spa serves the files of root. A path that is no file there is the
// application's own if somebody navigates to it, and gets index.html. A script
// or a picture that is missing is missing.
func spa(root *os.Root) http.Handler {
	files := http.FileServerFS(root.FS())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name := strings.Trim(r.URL.Path, "/")
		info, err := root.Stat(name)
		isFile := err == nil && info.Mode().IsRegular() && !isHidden(name)
		if !isFile && name != "" && !isNavigation(r) {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		if !isFile {
			h.Set("Cache-Control", "no-store")
			http.ServeFileFS(w, r, root.FS(), "index.html")
			return
		}
		h.Set("Cache-Control", "no-cache") // kept, but asked for again: a release is seen at once
		files.ServeHTTP(w, r)
	})
}

// isNavigation reports whether a browser opens a page with r. Old browsers
// don't say so, but what they accept does.
func isNavigation(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// isHidden reports whether name is in a directory, or is a file, that nobody
// meant to publish, such as .git or .env. .well-known is for publishing.
func isHidden(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") && part != ".well-known" {
			return true
		}
	}
	return false
}
