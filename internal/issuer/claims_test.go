package issuer

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzClaims: no payload makes decoding panic, and what is accepted has each
// claim once, under its own name, and no date out of range. What encoding/json
// would read into a struct, which ignores case, is then the same.
func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `[]`, `{}`, `{"sub":"a"}`, `{"sub":"a","SUB":"b"}`, `{"sub":"a","sub":"b"}`, `{"ſub":"a"}`, `{"\u0073ub":"a","sub":"b"}`,
		`{"sub":7}`, `{"sub":null}`, `{"exp":1e300}`, `{"exp":"1"}`, `{"exp":-1}`, `{"exp":1.5}`, `{"iat":99999999999999999999}`,
		`{"auth_time":0}`, `{"events":null}`, `{"a":{"b":[1,2,{"c":null}]}}`, `{"a":1} {}`, `{"a":`, "{\"a\":\"\xff\"}", strings.Repeat(`[`, 100),
		`{"iss":"https://op","sub":"alice","aud":["c"],"exp":2000000000,"iat":1000000000,"nonce":"n","azp":"c","tenantId":"t","acr":"1","sid":"s"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, e := readClaims(payload, false)
		if e != nil {
			if c != nil || e.Kind != Invalid || e.Check == "" || e.Err != nil {
				t.Fatalf("readClaims = %v, %+v", c, e)
			}
			return
		}
		if !utf8.Valid(payload) || !json.Valid(payload) {
			t.Fatalf("readClaims accepted %q", payload)
		}
		var loose struct {
			Sub, SID, ACR, AZP, Nonce, TenantID string
			Exp, Iat, Nbf                       int64
			AuthTime                            int64           `json:"auth_time"`
			Events                              json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal(payload, &loose); err != nil {
			t.Fatalf("readClaims accepted %q, json says %v", payload, err)
		}
		for name, value := range map[string]string{
			"sub": loose.Sub, "sid": loose.SID, "acr": loose.ACR, "azp": loose.AZP, "nonce": loose.Nonce, "tenantId": loose.TenantID,
		} {
			if c.text[name] != value {
				t.Errorf("%s = %q, a loose decoder says %q", name, c.text[name], value)
			}
		}
		for name, value := range map[string]int64{"exp": loose.Exp, "iat": loose.Iat, "nbf": loose.Nbf, "auth_time": loose.AuthTime} {
			got := c.date[name]
			if value == 0 && !got.IsZero() || value != 0 && got.Unix() != value || value < 0 || value > 253402300799 {
				t.Errorf("%s = %v, a loose decoder says %d", name, got, value)
			}
		}
		if loose.Events != nil {
			t.Errorf("readClaims accepted events in %q", payload)
		}
	})
}

// FuzzHeader: what is judged before the signature is.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{"", "..", "a.b.c", "e30.e30.e30", "eyJhbGciOiJub25lIn0..", "eyJ0eXAiOiJhdCtqd3QifQ.e30.e30"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if misshapen(raw) != "" {
			return
		}
		header, e := readHeader(raw)
		if e == nil && (header["crit"] != nil || strings.Contains(strings.ToLower(string(header["typ"])), "+jwt")) {
			t.Errorf("readHeader accepted %q", raw)
		}
	})
}

// Kinds have names for the log.
func TestKindString(t *testing.T) {
	for kind, want := range map[Kind]string{Unreachable: "unreachable", Lost: "answer lost", Answered: "refused", Malformed: "malformed answer", Invalid: "invalid", 0: "Kind(0)", 9: "Kind(9)"} {
		if got := kind.String(); got != want {
			t.Errorf("Kind(%d) = %q, want %q", int(kind), got, want)
		}
	}
}
