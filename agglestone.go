package bff

import (
	"net/url"
	"strings"
)

// invalidTenant marks what AgglestoneIssuer could not use, for New to report.
const invalidTenant = "agglestone: not a tenant ID: "

const agglestoneBase = "https://auth.agglestone.com/tenant/"

// AgglestoneIssuer returns the issuer identifier of a tenant at the Agglestone
// Authentication and User Management Service, for Config.Issuer. What is not a
// tenant ID is rejected by [New]. Config.TenantID does this and more.
func AgglestoneIssuer(tenantID string) string {
	if !validTenantID(tenantID) {
		return invalidTenant + tenantID
	}
	return agglestoneBase + tenantID + "/v2.0/Auth"
}

// AgglestoneUsers returns the Users API of a tenant as an upstream, mounted
// under prefix: with "/api/users", GET /api/users is forwarded to
// https://auth.agglestone.com/tenant/{tenantID}/v2.0/Users and
// GET /api/users/7 to …/Users/7. The documentation gives the API's path in
// several ways; path overrides it, and empty means /v2.0/Users. What is not a
// tenant ID makes an upstream that [Upstream.Validate] rejects.
//
// The API wants a user in the group Admin; others get its 403.
func AgglestoneUsers(tenantID, path, prefix string) Upstream {
	if path == "" {
		path = "/v2.0/Users"
	}
	up := Upstream{URL: agglestoneBase + tenantID + path, StripPrefix: prefix}
	if !validTenantID(tenantID) {
		up.URL = invalidTenant + tenantID
	}
	return up
}

// tenantOf returns the tenant ID in an issuer identifier of Agglestone's shape,
// on whatever host, or "".
func tenantOf(issuer *url.URL) string {
	parts := strings.Split(issuer.Path, "/")
	if len(parts) == 5 && parts[1] == "tenant" && parts[4] == "Auth" && validTenantID(parts[2]) {
		return parts[2]
	}
	return ""
}

// validTenantID reports whether id can be a tenant ID: one path segment that
// means nothing but itself.
func validTenantID(id string) bool {
	if len(id) < 1 || len(id) > 64 {
		return false
	}
	for _, r := range id {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_') {
			return false
		}
	}
	return id[0] != '-' && id[0] != '_'
}
