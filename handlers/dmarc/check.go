package dmarc

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/authres"
	"github.com/caddymail/caddy-smtp/smtpapp/dmarc"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// maxAuthors is how many domains of authors are checked. Nobody honest has more.
const maxAuthors = 10

var (
	errNoAuthor    = errors.New("the message names no author")
	errManyAuthors = fmt.Errorf("the message has authors of more than %d domains", maxAuthors)
)

// A verdict is what the check of one message found.
type verdict struct {
	authors []*dmarc.Evaluation
	worst   *dmarc.Evaluation // one of them, or one of no domain

	disposition dmarc.Policy
	overrides   []override
}

// override is why another policy is applied than the domain's owner asks for,
// in the words of aggregate reports (RFC 9990, section 3.1.6).
type override struct{ kind, comment string }

const (
	trustedForwarder = "trusted_forwarder"
	localPolicy      = "local_policy"
	testMode         = "policy_test_mode"
	otherReason      = "other"
)

// check evaluates all authors of a message.
func (h *Handler) check(ctx context.Context, tx *session.Transaction, m *message.Message) *verdict {
	domains := originator.Read(m.Header).Domains()
	switch {
	case len(domains) == 0:
		return undecided(errNoAuthor)
	case len(domains) > maxAuthors:
		return undecided(errManyAuthors)
	}
	f := dmarc.NewFinder(h.resolver, dmarc.Method(h.Method))
	ids := identifiers(tx)
	v := new(verdict)
	for _, d := range domains {
		e := f.Evaluate(ctx, d, ids, sample(tx.ID))
		v.authors = append(v.authors, e)
		if v.worst == nil || e.Worse(v.worst) {
			v.worst = e
		}
	}
	v.disposition = v.worst.Policy
	if e := v.worst; e.Value == dmarc.Fail && e.Policy != e.Requested {
		v.overrides = append(v.overrides, softened(e))
	}
	if v.disposition != dmarc.PolicyNone {
		if o, ok := h.exempt(ctx, f, tx, ids, domains); ok {
			v.overrides = append(v.overrides, o)
			v.disposition = dmarc.PolicyNone
		}
	}
	return v
}

// undecided is the verdict on a message without authors to check.
func undecided(err error) *verdict {
	return &verdict{worst: &dmarc.Evaluation{Value: dmarc.PermError, Err: err, Policy: dmarc.PolicyNone}, disposition: dmarc.PolicyNone}
}

func softened(e *dmarc.Evaluation) override {
	if e.Record.Testing {
		return override{testMode, ""}
	}
	return override{otherReason, fmt.Sprintf("pct=%d", e.Record.Percent)}
}

// sample is a number from 0 to 99.
func sample(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % 100)
}

// identifiers are the domains that earlier handlers authenticated.
func identifiers(tx *session.Transaction) (ids dmarc.Identifiers) {
	name := "mailfrom"
	if tx.Envelope.From.IsNull() { // RFC 7208, section 2.4
		name = "helo"
	}
	for _, r := range tx.Results {
		switch r.Method + "=" + r.Value {
		case "spf=pass":
			ids.SPF = appendDomain(ids.SPF, property(r, "smtp", name))
		case "spf=temperror":
			ids.UnknownSPF = appendDomain(ids.UnknownSPF, property(r, "smtp", name))
		case "dkim=pass":
			ids.DKIM = appendDomain(ids.DKIM, property(r, "header", "d"))
		case "dkim=temperror":
			ids.UnknownDKIM = appendDomain(ids.UnknownDKIM, property(r, "header", "d"))
		}
	}
	return ids
}

func property(r session.Result, ptype, name string) string {
	for _, p := range r.Props {
		if p.Type == ptype && p.Name == name {
			return p.Value
		}
	}
	return ""
}

// appendDomain appends the domain of an address, or a domain itself.
func appendDomain(ds []string, s string) []string {
	s = s[strings.LastIndexByte(s, '@')+1:]
	if d, err := mail.ParseDomain(strings.TrimSuffix(s, ".")); err == nil {
		ds = append(ds, d)
	}
	return ds
}

// exempt tells why the policy is not applied, if there is a reason.
func (h *Handler) exempt(ctx context.Context, f *dmarc.Finder, tx *session.Transaction, ids dmarc.Identifiers, authors []string) (override, bool) {
	if h.networks.Contain(tx.Session.RemoteIP()) {
		return override{trustedForwarder, ""}, true
	}
	for _, ds := range [][]string{ids.SPF, ids.DKIM} {
		for _, d := range ds {
			if pattern.HasDomain(h.domains, d) {
				return override{trustedForwarder, d}, true
			}
		}
	}
	return vouched(ctx, f, tx, authors)
}

// vouched looks for a sealer that is trusted, by an unbroken line of others
// that are, and that got the message with a result that passes for all authors
// (RFC 8617, section 7.2).
func vouched(ctx context.Context, f *dmarc.Finder, tx *session.Transaction, authors []string) (override, bool) {
	rs := tx.Find("arc")
	if len(rs) == 0 || rs[len(rs)-1].Value != arc.Pass {
		return override{}, false
	}
	chain, ok := rs[len(rs)-1].Detail.(*arc.Result)
	if !ok {
		return override{}, false
	}
	for i := len(chain.Sets) - 1; i >= 0 && chain.Sets[i].Trusted; i-- {
		said, err := authres.Parse(chain.Sets[i].Results)
		all := err == nil
		for _, a := range authors {
			all = all && passed(ctx, f, said.Results, a)
		}
		if all {
			return override{localPolicy, chainComment(chain)}, true
		}
	}
	return override{}, false
}

// passed reports whether a sealer found that a message is from an author's
// domain: by its own DMARC result, or by identifiers that are aligned.
func passed(ctx context.Context, f *dmarc.Finder, results []authres.Result, author string) bool {
	var ids []string
	for _, r := range results {
		if r.Value != "pass" {
			continue
		}
		get := func(ptype, name string) []string {
			v, _ := r.Get(ptype, name)
			return appendDomain(nil, v)
		}
		switch r.Method {
		case "dmarc":
			if slices.Contains(get("header", "from"), author) {
				return true
			}
		case "spf":
			ids = append(ids, get("smtp", "mailfrom")...)
		case "dkim":
			ids = append(append(ids, get("header", "d")...), get("header", "i")...)
		}
	}
	rec, err := f.Record(ctx, author)
	if err != nil || rec == nil {
		return false
	}
	ok, _ := f.Aligned(ctx, author, ids, rec.StrictDKIM || rec.StrictSPF)
	return ok
}

// chainComment names the sealers as RFC 8617, section 7.2.2, has it.
func chainComment(r *arc.Result) string {
	var b strings.Builder
	b.WriteString("arc=" + r.Value)
	for i := len(r.Sets) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, " as[%d].d=%s as[%d].s=%s", i+1, r.Sets[i].Sealer, i+1, r.Sets[i].Selector)
	}
	return b.String()
}

// results are what the message and later handlers get to see: a result for each
// author's domain, the worst one last.
func (v *verdict) results() []session.Result {
	var rs []session.Result
	for _, e := range v.authors {
		if e != v.worst {
			rs = append(rs, result(e, e.Policy))
		}
	}
	rs = append(rs, result(v.worst, v.disposition))
	return append(rs, session.Result{Method: "dmarc_disposition", Value: string(v.disposition), Private: true})
}

func result(e *dmarc.Evaluation, applied dmarc.Policy) session.Result {
	r := session.Result{Method: "dmarc", Value: e.Value, Detail: e}
	switch e.Value {
	case dmarc.TempError:
		r.Reason = "temporary failure of DNS"
	case dmarc.PermError:
		r.Reason = e.Err.Error()
	}
	if e.Domain != "" {
		r.Props = append(r.Props, session.Property{Type: "header", Name: "from", Value: e.Domain})
	}
	if e.Record != nil {
		r.Props = append(r.Props, session.Property{Type: "policy", Name: "dmarc", Value: string(applied)})
	}
	return r
}
