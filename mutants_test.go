package bff_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/agglestone/bff/internal/mutate/mutate"
)

// guards names the tests that are red without a check, for the checks that no
// row of a table names. A path before a colon is another package's.
var guards = map[string]string{
	"attempt-cookie":             "TestAttemptCookie/changed",
	"authorize":                  "TestAuthorize",
	"cache-expiry":               "TestCacheExpires/idle",
	"cache-race":                 "TestCacheKeepsNoOvertakenLoad",
	"cache-stale":                "TestCacheWithoutReports",
	"callback-navigation":        "TestLoginIsNavigation/prefetch",
	"callback-query":             "TestLoginIsNavigation/bad-escape",
	"challenge-params":           "TestUpstreamStepUp/40-parameters",
	"challenge-size":             "TestUpstreamStepUp/acr-of-10-KB",
	"challenge-twice":            "TestUpstreamStepUp",
	"client-gone":                "TestNoGrantLeftBehind/client-gone",
	"client-party":               "TestClientNeedsSession",
	"client-session":             "TestClientNeedsSession",
	"config-index":               "TestStoreWithoutIndex",
	"content-type-twice":         "TestRawRequests",
	"cookie-twice":               "TestTwoCookies",
	"drop-query":                 "TestRawRequests",
	"echo-body":                  "TestTokenEcho/body",
	"echo-encoding":              "TestTokenEcho/body-compressed",
	"echo-header":                "TestTokenEcho/header",
	"echo-informational":         "TestTokenEcho/early-hint",
	"ends-next-session":          "TestBackchannelLogoutReplayAndLateness",
	"group":                      "TestHandlerUntouched",
	"header-name":                "TestRawRequests",
	"header-prefix":              "TestProxyRequestHeaders",
	"hint":                       "TestSignOut/no-hint-by-choice",
	"informational":              "TestFaultyUpstream/informational-without-end",
	"lifetime":                   "TestRecordPastItsEnd",
	"location":                   "TestResponseHygiene",
	"location-path":              "TestResponseHygiene",
	"login-loop":                 "TestLoginLoop",
	"login-navigation":           "TestLoginIsNavigation/prefetch",
	"login-param":                "TestAuthorizationRequest/a_control_character",
	"login-prompt":               "TestAuthorizationRequest/a_prompt_that_does_not_exist",
	"logout-content-type":        "TestBackchannelLogoutRequests",
	"logout-once":                "TestBackchannelLogoutRequests",
	"logout-replay":              "TestBackchannelLogoutReplayAndLateness",
	"logout-size":                "TestBackchannelLogoutRequests",
	"logout-state":               "TestLoggedOut",
	"max-auth-age":               "TestMaxAuthAge",
	"old-session":                "TestInvariant6LoginMakesNewSessionID",
	"on-login":                   "TestNoGrantLeftBehind/refused-by-the-hook",
	"on-refresh":                 "TestGroupsChange",
	"optional-outage":            "TestInvariant5BrokenPartIsNoLogout",
	"other-subject":              "TestStepUpByAnother",
	"own-cookie":                 "TestProxyRequestHeaders",
	"parse-key-size":             "TestParseKey",
	"preflight":                  "TestRawRequests",
	"proxy-cache":                "TestProxyCache",
	"query-token":                "TestRawRequests",
	"replay":                     "TestUpstreamUnauthorized/post-without-challenge",
	"replay-once":                "TestUpstreamUnauthorized/young-token",
	"replaced-grant":             "TestNewSignInDuringRefresh",
	"step-up-outage":             "TestStepUpWhileTheStoreIsDown",
	"stream-key":                 "TestStreamsEndWithTheirKey",
	"request-header":             "TestProxyRequestHeaders",
	"request-size":               "TestRawRequests/too-large",
	"require-acr":                "TestRequireACR",
	"response-header":            "TestProxyResponseHeaders",
	"rewritten-path":             "TestRewritePath",
	"row-spelling,target-prefix": "TestRawRequests",
	"rule-drop":                  "TestUpstreamValidate/drop-framing",
	"rule-pass":                  "TestUpstreamValidate/pass-authorization",
	"session-expiry":             "TestSessionExpiryOfTheIssuer",
	"set-cookie":                 "TestProxyResponseHeaders",
	"set-own-cookie":             "TestProxyResponseHeaders",
	"shared-grant":               "TestFailedStepUp",
	"sid-of-another":             "TestBackchannelLogoutScope",
	"sid-of-its-own":             "TestBackchannelLogoutWithoutSID",
	"spent":                      "TestInvariant8LoginIsBoundAndUsedOnce",
	"state":                      "TestStateIsCompared",
	"step-up-anonymous":          "TestRequireACR",
	"stream-lifetime":            "TestStreamsOutliveABrokenStore",
	"stream-limit":               "TestStreamsBoundedAndDrained",
	"tag-mark":                   "TestBackchannelLogoutOfLoginInFlight",
	"tag-mark-sid":               "TestBackchannelLogoutWithoutSID/in_flight_with_another_sid",
	"token-echo":                 "TestTokenEcho",
	"token-expiry":               "TestNoRefreshToken",
	"trailer":                    "TestProxyResponseHeaders",
	"upstream-anonymous":         "TestUpstreamValidate/anonymous-user",
	"upstream-stream-token":      "TestUpstreamValidate/stream-token-of-none",
	"upstream-client-optional":   "TestUpstreamValidate/client-optional",
	"upstream-csrf-token":        "TestTable",
	"upstream-method":            "TestUpstreamValidate/methods-trace",
	"upstream-none":              "TestUpstreamValidate/none-with-groups",
	"upstream-status":            "TestFaultyUpstream/status-099",
	"upstream-tokens":            "TestUpstreamValidate/client-without-tokens",
	"upstream-user-header":       "TestUpstreamValidate/identity-authorization",
	"wrong-host":                 "TestWrongHost",

	// What only the wire protocol's own tests can provoke.
	"alg-any":          "./internal/issuer:TestAlgorithmAllowed",
	"error-code":       "./internal/issuer:TestRefusal",
	"error-code-echo":  "./internal/issuer:TestRefusal",
	"extra-parameter":  "./internal/issuer:TestAuthorizationURL",
	"fetch-pause":      "./internal/issuer:TestDiscoveryBackoff",
	"header-form":      "./internal/issuer:TestIDToken",
	"issuer-url":       "./internal/issuer:TestPlainHTTP",
	"key-fit":          "./internal/issuer:TestKeys/curve",
	"key-public":       "./internal/issuer:TestKeys/only-oct",
	"nonce-expected":   "./internal/issuer:TestExpect",
	"refetch-interval": "./internal/issuer:TestKeyRotation",
	"refresh-azp":      "./internal/issuer:TestExpect",
	"revoke-status":    "./internal/issuer:TestRevoke",

	"issued-token-type": "./tokens:TestExchange",

	"cookie-length":  "./internal/seal:TestCookieForged",
	"cookie-mac":     "./internal/seal:TestCookieForged",
	"record-header":  "./internal/seal:TestRecord",
	"record-length":  "./internal/seal:TestRecord",
	"ring-empty":     "./internal/seal:TestBadKeys",
	"ring-key-size":  "./internal/seal:TestBadKeys",
	"ring-key-twice": "./internal/seal:TestBadKeys",

	"return-authority": "./internal/returnto:TestRefused/empty-first-with-parameter",
	"return-character": "./internal/returnto:TestRefused/X3",
	"return-delimiter": "./internal/returnto:TestRefused/X21",
	"return-denied":    "./internal/returnto:TestRefused/X37-logout",
	"return-dots":      "./internal/returnto:TestRefused/dot-dot-inside",
	"return-escape":    "./internal/returnto:TestRefused/escape-not-hex-in-query",
	"return-fragment":  "./internal/returnto:TestRefused/dots-in-fragment",
	"return-length":    "./internal/returnto:TestRefused/X39",
	"return-local":     "./internal/returnto:TestRefused/X23",
}

// binaries are the tests of the packages that have checks.
var binaries = map[string]string{
	".": "bff.test", "./internal/issuer": "issuer.test", "./internal/seal": "seal.test", "./internal/returnto": "returnto.test", "./tokens": "tokens.test",
}

// A proof is a test, or a row of one, that must be red when checks are off.
type proof struct{ checks, pkg, test, row string }

func proofs() []proof {
	var list []proof
	row := func(checks, test, name string) {
		if checks != "" {
			list = append(list, proof{checks, ".", test, strings.ReplaceAll(name, " ", "_")})
		}
	}
	for _, r := range hostileRows() {
		row(r.checks, "TestHostileIssuer", r.name)
	}
	for _, r := range csrfRows() {
		row(r.checks, "TestCSRF", r.name)
	}
	for _, r := range proxyPaths() {
		row(r.checks, "TestProxyPaths", r.name)
	}
	for _, r := range upgradeRows() {
		row(r.checks, "TestUpgrades", r.name)
	}
	for _, r := range clientRows() {
		row(r.checks, "TestClient", r.name)
	}
	for _, r := range configRows() {
		row(r.checks, "TestConfig", r.name)
	}
	for _, r := range backchannelRows() {
		row(r.checks, "TestBackchannelLogoutTokens", r.name)
	}
	for checks, test := range guards {
		p := proof{checks: checks, pkg: ".", test: test}
		if pkg, rest, ok := strings.Cut(test, ":"); ok {
			p.pkg, p.test = pkg, rest
		}
		p.test, p.row, _ = strings.Cut(p.test, "/")
		list = append(list, p)
	}
	return list
}

// A check that could be deleted without a test noticing is not proved. Each
// check of the library is deleted in turn, go-oidc's among them, and every test
// and row that claims it must then be red.
func TestMutants(t *testing.T) {
	if os.Getenv(mutate.Env) != "" {
		t.Fatal("a mutant must not run this test")
	}
	dir := t.TempDir()
	overlay, names, err := mutate.Build(".", dir)
	if err != nil {
		t.Fatal(err)
	}
	all := proofs()
	var proved []string
	for _, p := range all {
		proved = append(proved, strings.Split(p.checks, ",")...)
	}
	for _, name := range names {
		if !slices.Contains(proved, name) {
			t.Errorf("check:%s is proved by no test", name)
		}
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(proved))) {
		if !slices.Contains(names, name) {
			t.Errorf("a proof names check:%s, which is marked nowhere", name)
		}
	}

	// Once for all, and without the race detector even if GOFLAGS asks for it.
	args := []string{"test", "-c", "-race=false", "-overlay", overlay, "-o", dir + string(filepath.Separator)}
	compile := exec.CommandContext(t.Context(), "go", slices.AppendSeq(args, maps.Keys(binaries))...)
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", compile, err, out)
	}

	// The rows of one test that claim the same checks run together.
	rows := map[proof][]string{}
	for _, p := range all {
		name := p.row
		p.row = ""
		rows[p] = append(rows[p], name)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for p, names := range rows {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			run := "^" + p.test + "$"
			if names[0] != "" {
				run += "/^(" + strings.Join(quoted(names), "|") + ")$"
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, binaries[p.pkg]), "-test.run", run, "-test.v", "-test.timeout", "2m")
			cmd.Dir = p.pkg
			cmd.Env = append(os.Environ(), mutate.Env+"="+p.checks)
			out, err := cmd.CombinedOutput()
			for _, name := range names {
				line := "--- FAIL: " + p.test
				if name != "" {
					line += "/" + name
				}
				if err == nil || !strings.Contains(string(out), line+" (") {
					t.Errorf("without check:%s there is no %q in %s: %v\n%.2000s", p.checks, line, p.pkg, err, out)
				}
			}
		})
	}
	wg.Wait()
}

func quoted(names []string) []string {
	var list []string
	for _, name := range names {
		list = append(list, regexp.QuoteMeta(name))
	}
	return list
}
