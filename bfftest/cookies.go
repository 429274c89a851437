package bfftest

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// A jar keeps cookies as browsers do (RFC 6265bis), with what
// net/http/cookiejar leaves out: SameSite and the prefixes of names. It is
// strict where browsers differ: plain http carries no Secure cookies, on
// loopback neither.
type jar struct {
	mu      sync.Mutex
	cookies []*kept
}

type kept struct {
	http.Cookie        // Path is never empty
	host        string // the domain, without a dot
	hostOnly    bool
	expires     time.Time // zero: with the browser's session
}

// store keeps the cookies that an answer from u sets, and returns why it
// refused the others.
func (j *jar) store(u *url.URL, cookies []*http.Cookie) (refused []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range cookies {
		k := &kept{Cookie: *c, host: strings.ToLower(u.Hostname()), hostOnly: true}
		if why := k.accept(u); why != "" {
			refused = append(refused, c.Name+": "+why)
			continue
		}
		now := time.Now()
		if c.MaxAge != 0 {
			k.expires = now.Add(time.Duration(c.MaxAge) * time.Second)
		} else if !c.Expires.IsZero() {
			k.expires = c.Expires
		}
		j.cookies = slices.DeleteFunc(j.cookies, func(old *kept) bool {
			return old.Name == k.Name && old.host == k.host && old.Path == k.Path && old.hostOnly == k.hostOnly
		})
		if k.expires.IsZero() || now.Before(k.expires) {
			j.cookies = append(j.cookies, k)
		}
	}
	return refused
}

// accept fills in the rest of k, or says why a browser would refuse it.
func (k *kept) accept(u *url.URL) (why string) {
	if d := strings.ToLower(strings.TrimPrefix(k.Domain, ".")); d != "" {
		_, isIP := netip.ParseAddr(k.host)
		if d != k.host && (isIP == nil || !strings.HasSuffix(k.host, "."+d) || !strings.Contains(d, ".")) {
			return "Domain is another site's"
		}
		k.host, k.hostOnly = d, false
	}
	name := strings.ToLower(k.Name) // RFC 6265bis, section 5.7: without case
	has := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	switch {
	case k.Secure && u.Scheme != "https":
		return "Secure over plain http"
	case k.SameSite == http.SameSiteNoneMode && !k.Secure:
		return "SameSite=None without Secure"
	case (has("__secure-") || has("__host-") || has("__http-")) && !k.Secure:
		return "the prefix of the name wants Secure"
	case has("__host-") && (!k.hostOnly || k.Path != "/"):
		return "the prefix of the name wants Path=/ and no Domain"
	case (has("__http-") || has("__host-http-")) && !k.HttpOnly:
		return "the prefix of the name wants HttpOnly"
	case len(k.Name)+len(k.Value) > 4096:
		return "longer than 4096 bytes"
	}
	if !strings.HasPrefix(k.Path, "/") {
		k.Path = "/"
		if i := strings.LastIndexByte(u.Path, '/'); i > 0 {
			k.Path = u.Path[:i]
		}
	}
	return ""
}

// pick returns the cookies for a request to u. Same-site requests get all;
// navigations from another site those that are not Strict; other requests from
// there only those with SameSite=None. Without the attribute a cookie is Lax.
func (j *jar) pick(u *url.URL, sameSite, navigation bool) []*http.Cookie {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	j.cookies = slices.DeleteFunc(j.cookies, func(k *kept) bool { return !k.expires.IsZero() && !now.Before(k.expires) })
	host, path := strings.ToLower(u.Hostname()), u.Path
	if path == "" {
		path = "/"
	}
	var cookies []*http.Cookie
	for _, k := range j.cookies {
		switch {
		case host != k.host && (k.hostOnly || !strings.HasSuffix(host, "."+k.host)):
		case path != k.Path && !strings.HasPrefix(path, strings.TrimSuffix(k.Path, "/")+"/"):
		case k.Secure && u.Scheme != "https":
		case !sameSite && k.SameSite != http.SameSiteNoneMode && (k.SameSite == http.SameSiteStrictMode || !navigation):
		default:
			c := k.Cookie
			cookies = append(cookies, &c)
		}
	}
	slices.SortStableFunc(cookies, func(a, b *http.Cookie) int { return len(b.Path) - len(a.Path) })
	return cookies
}

// SetCookies and Cookies are for http.CookieJar, which knows of no sites.
func (j *jar) SetCookies(u *url.URL, cookies []*http.Cookie) { j.store(u, cookies) }

func (j *jar) Cookies(u *url.URL) []*http.Cookie { return j.pick(u, true, true) }

// siteOf returns the scheme and registrable domain of u, taking the last two
// labels for that: there is no public suffix list here.
func siteOf(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	if _, err := netip.ParseAddr(host); err != nil {
		labels := strings.Split(host, ".")
		host = strings.Join(labels[max(0, len(labels)-2):], ".")
	}
	return strings.ToLower(u.Scheme) + "://" + host
}
