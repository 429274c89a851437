// Package guard is a door with a check of every shape that can be marked.
package guard

import (
	"errors"

	"guard.example/limit"
)

// A Visitor asks to be let in.
type Visitor struct {
	Name, Badge, Word string
	Age, Bags         int
	Banned            bool
}

type policy struct {
	skipBadge bool
	needWord  bool
	note      string
}

var door = policy{
	skipBadge: false, // check:badge
	needWord:  true,  // check:word the other way round
	note:      "true",
}

var closed = map[string]bool{
	"mallory": true, // check:map-entry
	"alice":   false,
}

// Enter says what keeps v outside.
func Enter(v Visitor) error {
	if v.Name == "" { // check:name
		return errors.New("no name")
	}
	if v.Age < 18 { // check:age RFC 1: only this keeps children out
		return errors.New("too young")
	} else if v.Age > 120 { // check:else-if
		return errors.New("too old")
	} else if err := old(v.Age); err != nil { // check:else-if.init
		return err
	}
	if err := limit.Check(v.Bags); err != nil { // check:limit
		return err
	}
	if v.Banned ||
		v.Name == "eve" { // check:spans-lines_1
		return errors.New("banned")
	}
	if v.Badge == "forged" || // check:spans-lines_2
		// a comment in between
		v.Badge == "copied" {
		return errors.New("bad badge")
	}
	if !door.skipBadge && v.Badge == "" {
		return errors.New("no badge")
	}
	if door.needWord && v.Word == "" {
		return errors.New("no word")
	}
	if closed[v.Name] {
		return errors.New("closed")
	}
	if some(v.Name, func(r rune) bool {
		if r == 'ß' { // check:inner
			return true
		}
		return r == '!'
	}) { // check:outer
		return errors.New("odd name")
	}
	switch {
	case v.Word == "abracadabra": // check:case
		return errors.New("overheard word")
	case v.Word == "sesame",
		v.Word == "open": // check:cases
		return errors.New("guessed word")
	}
	if func() bool { return v.Word == "please" }() { // check:one-line-literal
		return errors.New("weak word")
	}
	if ok := v.Bags&1 == 0; !ok && v.Name == "thief" { /* before */ // check:shared
		return errors.New("odd bags")
	}
	return nil
}

func some(s string, is func(rune) bool) bool {
	for _, r := range s {
		if is(r) {
			return true
		}
	}
	return false
}

func old(age int) error {
	if age == 99 {
		return errors.New("come back next year")
	}
	return nil
}
