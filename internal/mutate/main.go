// The mutate command shows which security checks of a module have a mutant, or
// builds the mutants for a look at them by hand.
//
//	go run ./internal/mutate -list        NAME and file:line of every marker
//	go run ./internal/mutate -out DIR     the copies and DIR/overlay.json
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/agglestone/bff/internal/mutate/mutate"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	list := flags.Bool("list", false, "print the name and place of every marked check")
	out := flags.String("out", "", "write the mutants and their overlay to this `directory`")
	dir := flags.String("module", ".", "the `directory` of the module")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *list == (*out != "") {
		return fmt.Errorf("mutate: want either -list or -out DIR")
	}
	if *list {
		markers, err := mutate.List(*dir)
		if err != nil {
			return err
		}
		for _, m := range markers {
			fmt.Fprintln(stdout, m)
		}
		return nil
	}
	overlay, names, err := mutate.Build(*dir, *out)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d mutants: %s\n", len(names), overlay)
	return nil
}
