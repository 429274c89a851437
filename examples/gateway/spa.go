package main

import (
	"errors"
	"net/http"
	"os"
	"strings"

	"github.com/agglestone/bff/spa"
)

// openSPA serves the single-page application in a directory. Signing out leads
// to the issuer, and sources are what its pages may use besides this site.
func openSPA(dir, issuer, sources string) (http.Handler, error) {
	opts := spa.Options{EndSession: issuer, HashInline: true, Sources: map[string][]string{}}
	for directive := range strings.SplitSeq(sources, ";") {
		if words := strings.Fields(directive); len(words) > 0 {
			opts.Sources[words[0]] = append(opts.Sources[words[0]], words[1:]...)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	site, err := spa.Handler(root.FS(), opts)
	if err != nil {
		root.Close()
		// In the words of the one who wrote the environment, each line.
		text := strings.NewReplacer("\nspa: ", "\nBFF_SPA_DIR: ", "spa: ", "", "Options.Sources", "BFF_SPA_SOURCES").Replace(err.Error())
		return nil, errors.New(text)
	}
	return site, nil
}
