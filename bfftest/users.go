package bfftest

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A User can sign in.
type User struct {
	// Name is what SignIn and the sign-in page call the user: alice.
	Name string

	// ID is the sub and userId claim. Empty means one made from Name.
	ID string

	// Email and DisplayName are made from Name if empty.
	Email, DisplayName string

	Groups []string

	// Type is the userType of the Users API. Empty means User.
	Type string

	// Password, if not empty, must be typed in: the user gets no button.
	Password string

	// Disabled users can neither sign in nor refresh.
	Disabled bool

	// Claims are added to ID tokens and userinfo.
	Claims map[string]any

	// Values are for [NewContext]; an issuer knows nothing of them.
	Values map[string]string
}

type user struct {
	User
	lastLogin, lastRefresh time.Time
}

// AddUser adds a user, or replaces the one of that name.
func (iss *Issuer) AddUser(u User) {
	if u.ID == "" {
		sum := sha256.Sum256([]byte(u.Name))
		u.ID = fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	}
	if u.Email == "" {
		u.Email = u.Name + "@example.com"
	}
	if u.DisplayName == "" {
		u.DisplayName = u.Name
	}
	if u.Type == "" {
		u.Type = "User"
	}
	u.Groups, u.Claims = slices.Clone(u.Groups), maps.Clone(u.Claims)
	iss.mu.Lock()
	defer iss.mu.Unlock()
	for _, old := range iss.users {
		if old.Name == u.Name {
			old.User = u
			return
		}
	}
	iss.users = append(iss.users, &user{User: u})
}

// User returns the user with this name or ID.
func (iss *Issuer) User(nameOrID string) (u User, ok bool) {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	if found := iss.user(nameOrID); found != nil {
		return found.User, true
	}
	return User{}, false
}

// user returns the user with this name or ID, or nil. The caller holds mu.
func (iss *Issuer) user(nameOrID string) *user {
	for _, u := range iss.users {
		if nameOrID != "" && (u.Name == nameOrID || u.ID == nameOrID) {
			return u
		}
	}
	return nil
}

// claims returns what ID tokens and userinfo say about the person.
func (iss *Issuer) claims(u *user) map[string]any {
	m := map[string]any{
		"name":               u.DisplayName,
		"preferred_username": u.Name,
		"email":              u.Email,
		"email_verified":     true,
		"groups":             iss.groups(u),
	}
	maps.Copy(m, u.Claims)
	return m
}

func (iss *Issuer) groups(u *user) any {
	if iss.opts.GroupsAsString && len(u.Groups) == 1 {
		return u.Groups[0]
	}
	return append([]string{}, u.Groups...)
}

// bearer returns the access token of a request, if it is one of ours and
// good; otherwise it has answered (RFC 6750, section 3).
func (iss *Issuer) bearer(x *exchange) *accessToken {
	scheme, token, _ := strings.Cut(x.Request.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		x.header.Set("WWW-Authenticate", "Bearer")
		x.oauthError(http.StatusUnauthorized, "unauthorized", "a bearer token is missing")
		return nil
	}
	iss.mu.Lock()
	defer iss.mu.Unlock()
	t := iss.access[token]
	why := ""
	switch {
	case t == nil:
		why = "the token is not of this tenant"
	case !time.Now().Before(t.expires):
		why = "the token has expired"
	case t.revoked || iss.opts.StrictAccessTokens && (t.replaced || t.grant.why != ""):
		why = "the token was revoked"
	default:
		return t
	}
	x.header.Set("WWW-Authenticate", `Bearer error="invalid_token", error_description="`+why+`"`)
	x.oauthError(http.StatusUnauthorized, "invalid_token", why)
	return nil
}

// serveUserInfo answers as OpenID Connect Core 1.0, section 5.3 says.
func (iss *Issuer) serveUserInfo(x *exchange) {
	t := iss.bearer(x)
	if t == nil {
		return
	}
	iss.mu.Lock()
	claims := iss.claims(t.grant.user)
	claims["sub"] = t.grant.user.ID
	claims["userId"] = t.grant.user.ID
	claims["tenantId"] = iss.opts.TenantID
	iss.mu.Unlock()
	x.json(http.StatusOK, claims)
}

// serveUsers is the Users API: all of them page by page, or the one with id.
func (iss *Issuer) serveUsers(x *exchange, id string) {
	t := iss.bearer(x)
	if t == nil {
		return
	}
	problem := func(status int, detail string) {
		x.json(status, map[string]any{"title": http.StatusText(status), "status": status, "detail": detail})
	}
	if !slices.Contains(t.groups, "Admin") {
		problem(http.StatusForbidden, "The group Admin is needed.")
		return
	}
	if x.Method != http.MethodGet && x.Method != http.MethodHead {
		x.header.Set("Allow", "GET, HEAD")
		problem(http.StatusMethodNotAllowed, "The users can only be read.")
		return
	}
	iss.mu.Lock()
	defer iss.mu.Unlock()
	if id != "" {
		if u := iss.user(id); u != nil && u.ID == id {
			x.json(http.StatusOK, u.record(iss.opts.TenantID))
		} else {
			problem(http.StatusNotFound, "There is no such user.")
		}
		return
	}
	number, err1 := page(x, "pageNumber", 1)
	size, err2 := page(x, "pageSize", 10)
	if err1 != nil || err2 != nil || number < 1 || size < 1 || size > 100 {
		problem(http.StatusBadRequest, "pageNumber starts at 1, and pageSize is at most 100.")
		return
	}
	data := []any{}
	for i, u := range iss.users {
		if i/size == number-1 {
			data = append(data, u.record(iss.opts.TenantID))
		}
	}
	x.json(http.StatusOK, map[string]any{
		"data": data, "pageNumber": number, "pageSize": size, "totalRecords": len(iss.users),
	})
}

func page(x *exchange, name string, otherwise int) (int, error) {
	if v := x.URL.Query().Get(name); v != "" {
		return strconv.Atoi(v)
	}
	return otherwise, nil
}

// record returns u as the Users API documents it.
func (u *user) record(tenant string) map[string]any {
	when := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return t.UTC().Format(time.RFC3339)
	}
	return map[string]any{
		"userId":               u.ID,
		"email":                u.Email,
		"displayName":          u.DisplayName,
		"userType":             u.Type,
		"enabled":              !u.Disabled,
		"lastLoggedIn":         when(u.lastLogin),
		"lastTokenRefresh":     when(u.lastRefresh),
		"owner":                tenant,
		"requirePasswordReset": false,
	}
}
