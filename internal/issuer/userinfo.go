package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
)

// UserInfo returns what the userinfo endpoint says about subject: a JSON
// object whose sub is exactly subject (OpenID Connect Core 1.0, section 5.3.2),
// and whose tenantId, if there is one, is ours.
// Signed answers are not supported. An access token that the issuer doesn't
// take is an *Error of kind Answered, with status 401 or, at some, 403.
func (c *Client) UserInfo(ctx context.Context, accessToken, subject string) (json.RawMessage, error) {
	meta, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	if meta.UserInfoEndpoint == "" {
		return nil, &Error{Op: "userinfo", Kind: Unreachable, Err: errors.New("no userinfo_endpoint in the issuer's metadata")}
	}
	req, err := http.NewRequest(http.MethodGet, meta.UserInfoEndpoint, nil)
	if err != nil {
		return nil, &Error{Op: "userinfo", Kind: Unreachable, Err: plain(err)}
	}
	req.Header.Set("Authorization", "Bearer "+accessToken)
	t, e := c.do(ctx, "userinfo", req)
	if e != nil {
		return nil, e
	}
	if t.status != http.StatusOK { // check:userinfo-status
		return nil, refusal("userinfo", t, []string{accessToken})
	}
	mediaType, _, _ := mime.ParseMediaType(t.header.Get("Content-Type"))
	if mediaType != "application/json" { // check:userinfo-type
		return nil, &Error{Op: "userinfo", Kind: Malformed, Check: "userinfo-type"}
	}
	m, err := members(t.body)
	if err != nil { // check:userinfo-object
		return nil, &Error{Op: "userinfo", Kind: Malformed, Err: err}
	}
	sub, _ := text(m["sub"])
	if sub != subject { // check:userinfo-sub
		return nil, &Error{Op: "userinfo", Kind: Invalid, Check: "userinfo-sub"}
	}
	if raw, ok := m["tenantId"]; ok && string(raw) != "null" && c.cfg.TenantID != "" {
		if tenant, _ := text(raw); tenant != c.cfg.TenantID { // check:userinfo-tenant
			return nil, &Error{Op: "userinfo", Kind: Invalid, Check: "userinfo-tenant"}
		}
	}
	return t.body, nil
}
