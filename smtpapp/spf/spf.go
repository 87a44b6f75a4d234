// Package spf checks whether a domain lets a client send its mail (Sender
// Policy Framework, RFC 7208). Explanations (exp=) are checked and not fetched:
// they are a stranger's words. The package knows nothing of sessions.
package spf

import (
	"context"
	"net/netip"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// The results (RFC 7208, section 2.6).
const (
	None      = "none"
	Neutral   = "neutral"
	Pass      = "pass"
	Fail      = "fail"
	SoftFail  = "softfail"
	TempError = "temperror"
	PermError = "permerror"
)

// Values are all results.
var Values = []string{None, Neutral, Pass, Fail, SoftFail, TempError, PermError}

// An Identity is what is checked (RFC 7208, sections 2.3 and 2.4).
type Identity string

// The identities, by their names as properties (RFC 8601, section 2.7.2).
const (
	MailFrom Identity = "mailfrom"
	HELO     Identity = "helo"
)

// A Result is what became of a check.
type Result struct {
	Value    string
	Identity Identity
	Domain   string // whose policy it is
	Reason   string // of errors
}

// A Client is who sends.
type Client struct {
	IP    netip.Addr
	Hello string // its name in HELO or EHLO
}

// CheckHELO checks the name that a client gives itself. An address literal and
// a name that is no host's have no policy.
func CheckHELO(ctx context.Context, r dns.Resolver, c Client) Result {
	res := Check(ctx, r, c, "postmaster", c.Hello)
	res.Identity = HELO
	return res
}

// CheckMailFrom checks a reverse-path. The null one is the postmaster of the
// client's name (RFC 7208, section 2.4).
func CheckMailFrom(ctx context.Context, r dns.Resolver, c Client, from mail.Address) Result {
	if from.IsNull() {
		return CheckHELO(ctx, r, c)
	}
	return Check(ctx, r, c, from.Local, from.Domain)
}

// Check is check_host() of RFC 7208, section 4, for any mailbox. An address
// literal has no policy. A name of one label may have, against section 4.3: the
// lists of tests say so, and DNS knows.
func Check(ctx context.Context, r dns.Resolver, c Client, local, domain string) Result {
	domain = strings.TrimSuffix(domain, ".")
	res := Result{Value: None, Identity: MailFrom, Domain: domain}
	if !c.IP.IsValid() || strings.HasPrefix(domain, "[") {
		return res
	}
	if local == "" {
		local = "postmaster" // section 4.3
	}
	e := evaluation{ctx: ctx, r: r, ip: c.IP.Unmap().WithZone(""), hello: c.Hello, local: local, domain: domain}
	var err error
	if res.Value, err = e.check(domain); err != nil {
		res.Reason = err.Error()
	}
	return res
}
