package issuer

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

var (
	errNotObject = errors.New("not a JSON object")
	errDuplicate = errors.New("a member appears twice")
)

// members decodes a JSON object with its keys as they are. Decoding into a
// struct ignores case and takes the last of several, so "SUB" would pass for
// "sub".
func members(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errNotObject
	}
	m := make(map[string]json.RawMessage)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, errNotObject
		}
		name, _ := key.(string)
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return nil, errNotObject
		}
		// RFC 7519, section 4: which of the two counts is anybody's guess.
		_, twice := m[name]
		if twice { // check:duplicate-member
			return nil, errDuplicate
		}
		m[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errNotObject
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errNotObject
	}
	return m, nil
}

// present reports whether a member says anything: null doesn't, and neither
// does the empty string (RFC 6749, section 3.1).
func present(raw json.RawMessage) bool {
	return raw != nil && string(raw) != "null" && string(raw) != `""`
}

// text reads an optional string, empty if it isn't present. ok is false for
// every other type.
func text(raw json.RawMessage) (s string, ok bool) {
	if raw == nil {
		return "", true
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// within reports whether s is 1 to limit bytes of ASCII from lowest to '~'.
func within(s string, lowest byte, limit int) bool {
	for i := range len(s) {
		if s[i] < lowest || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= limit
}
