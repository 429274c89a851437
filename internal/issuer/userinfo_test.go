package issuer_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/agglestone/bff/internal/issuer"
)

// S156, S181: the token goes in the header, and only sub must come back.
func TestUserInfo(t *testing.T) {
	o := newOP(testIssuer)
	o.doc["userinfo_endpoint"] = testIssuer + "/userinfo?tenant=a"
	o.answer("/userinfo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, `{"sub":"alice","groups":["a"]}`)
	})
	info, err := o.client(t).UserInfo(t.Context(), secretAccess, "alice")
	if err != nil || string(info) != `{"sub":"alice","groups":["a"]}` {
		t.Errorf("UserInfo = %s, %v", info, err)
	}
	r := o.requests("/userinfo")[0]
	if r.Header.Get("Authorization") != "Bearer "+secretAccess || r.Method != "GET" || r.URL.RawQuery != "tenant=a" || r.Header.Get("Accept") != "application/json" {
		t.Errorf("request = %s %s %v", r.Method, r.URL, r.Header)
	}
}

// S155, S157, X157: what is not a JSON object about this subject is refused.
func TestUserInfoRefused(t *testing.T) {
	for _, row := range []struct {
		name   string
		rule   string
		status int
		typ    string
		body   string
		kind   issuer.Kind
		check  string
	}{
		{"other-sub", "S155", 200, "application/json", `{"sub":"mallory"}`, issuer.Invalid, "userinfo-sub"},
		{"no-sub", "S155", 200, "application/json", `{"name":"sentinel"}`, issuer.Invalid, "userinfo-sub"},
		{"sub-case", "S155", 200, "application/json", `{"sub":"Alice"}`, issuer.Invalid, "userinfo-sub"},
		{"sub-type", "S155", 200, "application/json", `{"sub":["alice"]}`, issuer.Invalid, "userinfo-sub"},
		{"sub-name-case", "S435", 200, "application/json", `{"SUB":"alice"}`, issuer.Invalid, "userinfo-sub"},
		{"sub-twice", "S435", 200, "application/json", `{"sub":"mallory","sub":"alice"}`, issuer.Malformed, ""},
		{"array", "S157", 200, "application/json", `[{"sub":"alice"}]`, issuer.Malformed, ""},
		{"html", "S157", 200, "text/html", `<html>sentinel`, issuer.Malformed, "userinfo-type"},
		{"html-type", "S157", 200, "text/html", `{"sub":"alice"}`, issuer.Malformed, "userinfo-type"},
		{"jwt", "S157", 200, "application/jwt", rsaKey.jwt(`{"sub":"alice"}`), issuer.Malformed, "userinfo-type"},
		{"no-type", "S157", 200, "", `{"sub":"alice"}`, issuer.Malformed, "userinfo-type"},
		{"large", "S439", 200, "application/json", `{"sub":"alice"}` + strings.Repeat(" ", 1<<20), issuer.Malformed, ""},
		{"401", "issuers", 401, "application/json", `{"sub":"alice"}`, issuer.Answered, ""},
		{"403", "issuers", 403, "application/json", `{"sub":"alice"}`, issuer.Answered, ""},
		{"500", "issuers", 500, "text/plain", secretText, issuer.Answered, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := newOP(testIssuer)
			o.answer("/userinfo", func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Type"] = []string{row.typ}
				w.WriteHeader(row.status)
				io.WriteString(w, row.body)
			})
			info, err := o.client(t).UserInfo(t.Context(), secretAccess, "alice")
			if err == nil || info != nil {
				t.Fatalf("UserInfo = %s, %v; want an error (%s)", info, err, row.rule)
			}
			e := problem(t, err, row.kind, row.check)
			if row.kind == issuer.Answered && e.Status != row.status {
				t.Errorf("status = %d, want %d", e.Status, row.status)
			}
		})
	}
}
