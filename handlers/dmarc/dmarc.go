// Package dmarc checks whether messages are from whom they say they are, and
// does what the owner of that domain wants done with the others (RFC 9989).
package dmarc

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dmarc"
	"github.com/caddymail/caddy-smtp/smtpapp/dmarcreport"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler checks the author's domain, that of the From field, by the results of
// `spf` and `dkim`, which come before it (RFC 9989). A message that fails is
// treated as the domain's owner asks: under the policy "reject" it is refused
// with 550 5.7.1, and under "quarantine" it is let through with a result that
// matchers and later handlers see. Of several authors, the worst result counts.
//
// The result is "dmarc", with the value none, pass, fail, temperror or
// permerror (RFC 9989, section 9.2). What is to be done is the result
// "dmarc_disposition", which is not written into the message: none, quarantine
// or reject, the last one only if nothing is refused here.
//
// Messages of our own users, and of clients that the server trusts, are not
// checked.
type Handler struct {
	// Annotate only records results, and refuses nobody. Default: false.
	Annotate bool `json:"annotate,omitempty"`

	// Method tells what is one organisation: "treewalk" asks DNS (RFC 9989,
	// section 4.10), with at most 8 questions for a name, and "psl" takes the
	// public suffix list that was compiled in (RFC 7489). Default: treewalk.
	Method string `json:"method,omitempty"`

	// Quarantine is what becomes of messages under the policy quarantine.
	// Default: nothing but the result.
	Quarantine *Quarantine `json:"quarantine,omitempty"`

	// Forwarders are networks whose clients forward mail of others, and domains
	// that do, which SPF or DKIM has to show. What comes from them is let through
	// in any case.
	Forwarders []string `json:"forwarders,omitempty"`

	// DeferTemperror refuses for now (451 4.4.3) what cannot be decided because
	// of DNS. Default: false, since not a few domains have name servers that
	// never answer this question.
	DeferTemperror bool `json:"defer_temperror,omitempty"`

	// Timeout bounds the DNS questions of one message. Default: 20s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Reports has aggregate reports sent to the owners of domains who ask for
	// them. Default: none are.
	Reports *Reports `json:"reports,omitempty"`

	resolver dns.Resolver
	networks pattern.Networks
	domains  []string
	log      *slog.Logger
	metrics  *metrics
	reporter *dmarcreport.Reporter
	location string // of the reporter
}

// Quarantine is what becomes of messages under the policy quarantine.
type Quarantine struct {
	// Reject refuses them as those under the policy reject.
	Reject bool `json:"reject,omitempty"`

	// Header is a field to add, for filters behind us.
	Header string `json:"header,omitempty"`

	// Value is its value. Default: "quarantine".
	Value string `json:"value,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.dmarc", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the options and takes the resolver of the configuration.
func (h *Handler) Provision(ctx caddy.Context) error {
	switch dmarc.Method(h.Method) {
	case "":
		h.Method = string(dmarc.TreeWalk)
	case dmarc.TreeWalk, dmarc.PublicSuffix:
	default:
		return fmt.Errorf("dmarc: '%s' is not treewalk or psl", h.Method)
	}
	if h.Timeout < 0 {
		return fmt.Errorf("dmarc: negative timeout")
	}
	if h.Timeout == 0 {
		h.Timeout = caddy.Duration(20 * time.Second)
	}
	if err := h.provisionForwarders(); err != nil {
		return fmt.Errorf("dmarc: forwarders: %w", err)
	}
	if q := h.Quarantine; q != nil {
		if q.Header != "" && !message.ValidName(q.Header) || q.Reject && q.Header != "" {
			return fmt.Errorf("dmarc: quarantine takes 'reject' or the name of a field")
		}
		if q.Value == "" {
			q.Value = "quarantine"
		}
	}
	h.log = plainlog.New(ctx.Slogger())
	e := env.FromContext(ctx)
	h.resolver, h.metrics = e.Resolver, theMetrics()
	if h.Reports != nil {
		if err := h.Reports.provision(h, e); err != nil {
			return fmt.Errorf("dmarc: reports: %w", err)
		}
		e.Offer(h)
	}
	return h.metrics.register(e)
}

// provisionForwarders parts networks from domains.
func (h *Handler) provisionForwarders() (err error) {
	var networks []string
	for _, f := range h.Forwarders {
		if _, err := pattern.ParseNetworks([]string{f}); err == nil {
			networks = append(networks, f)
		} else {
			h.domains = append(h.domains, f)
		}
	}
	if h.networks, err = pattern.ParseNetworks(networks); err != nil {
		return err
	}
	return domains(h.domains)
}

func domains(ds []string) error { return pattern.Domains(ds) }

// excluded reports whether the author's domain or that of the policy is among
// domains.
func excluded(ds []string, e *dmarc.Evaluation) bool {
	return pattern.HasDomain(ds, e.Domain) || pattern.HasDomain(ds, e.Record.Domain)
}

// HandleMessage checks the authors.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	if tx.Session.Trusted() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(h.Timeout))
	defer cancel()
	v := h.check(ctx, tx, m)
	h.metrics.count(v)
	h.count(tx, v)
	tx.Results = append(tx.Results, v.results()...)
	return h.act(tx, m, v)
}

// act does what the verdict calls for.
func (h *Handler) act(tx *session.Transaction, m *message.Message, v *verdict) error {
	refused := mail.Refuse(550, "5.7.1", "DMARC: %s wants mail refused that is not authenticated as its own", v.worst.Domain)
	switch {
	case v.worst.Domain == "":
		refused = mail.Refuse(550, "5.7.1", "DMARC: %s", v.worst.Err)
	case h.DeferTemperror && v.worst.Value == dmarc.TempError:
		refused = mail.Refuse(451, "4.4.3", "DMARC: DNS of %s does not answer", v.worst.Domain)
	case v.disposition == dmarc.Quarantine && h.Quarantine != nil && !h.Quarantine.Reject && h.Quarantine.Header != "" && !h.Annotate:
		m.Header.Prepend(h.Quarantine.Header, h.Quarantine.Value)
		return nil
	case v.disposition == dmarc.Reject:
	case v.disposition == dmarc.Quarantine && h.Quarantine != nil && h.Quarantine.Reject:
	default:
		return nil
	}
	if h.Annotate {
		h.log.Info("would be refused", "transaction", tx.ID, "from", tx.Envelope.From.String(), "reply", refused.Error())
		return nil
	}
	return refused
}

// OnlyAnnotates reports whether it refuses nothing.
func (h *Handler) OnlyAnnotates() bool { return h.Annotate }

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	dmarc {
//		annotate
//		method          treewalk|psl
//		quarantine      reject
//		quarantine      header <field> [<value>]
//		forwarders      <networks|domains...>
//		defer_temperror
//		timeout         <duration>
//		reports {
//			from          <address>
//			reverse_path  <address>
//			org_name      <text>
//			contact       <address>
//			extra_contact <text>
//			path          <folder>
//			jitter        <duration>
//			exclude       <domains...>
//		}
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"annotate":        caddyopt.Flag(&h.Annotate),
		"method":          caddyopt.String(&h.Method),
		"quarantine":      caddyopt.Once(h.unmarshalQuarantine),
		"forwarders":      caddyopt.Strings(&h.Forwarders),
		"defer_temperror": caddyopt.Flag(&h.DeferTemperror),
		"timeout":         caddyopt.Duration(&h.Timeout),
		"reports":         caddyopt.Once(h.unmarshalReports),
	})
}

func (h *Handler) unmarshalQuarantine(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	h.Quarantine = new(Quarantine)
	switch {
	case len(args) == 1 && args[0] == "reject":
		h.Quarantine.Reject = true
	case (len(args) == 2 || len(args) == 3) && args[0] == "header":
		h.Quarantine.Header, h.Quarantine.Value = args[1], strings.Join(args[2:], "")
	default:
		return d.ArgErr()
	}
	return nil
}

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
