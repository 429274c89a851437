package spa_test

import (
	"embed"
	"io/fs"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/agglestone/bff/spa"
)

//go:embed example_test.go
var dist embed.FS // in a program: //go:embed all:dist

// A program embeds what the bundler made, and uses the dev server while the
// frontend is being written.
func Example() {
	opts := spa.Options{
		EndSession: "https://login.example.com/logout",
		Sources:    map[string][]string{"img-src": {"https://images.example.com"}},
		// Vite names everything in assets/ by its content.
		Immutable: func(name string) bool { return strings.HasPrefix(name, "assets/") },
	}
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		log.Fatal(err)
	}
	site, err := spa.Handler(files, opts) // an embed.FS, or os.OpenRoot("dist") and its FS
	if os.Getenv("DEV") != "" {
		site, err = spa.Dev("http://localhost:5173", opts) // Vite, its hot reloading included
	}
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{
		Addr:              "127.0.0.1:8080",
		Handler:           spa.HSTS(site, 365*24*time.Hour, true), // auth.Routes(mux), with site at "/"
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(srv.ListenAndServe())
}

// A directory is opened as a root, which no symbolic link leads out of.
func ExampleHandler_directory() {
	root, err := os.OpenRoot("/srv/shop/dist")
	if err != nil {
		log.Fatal(err)
	}
	site, err := spa.Handler(root.FS(), spa.Options{EndSession: "https://login.example.com"})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/", site)
}
