// Package sign signs messages with DKIM.
package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler signs messages with DKIM (RFC 6376, RFC 8463), after all other
// handlers have made their changes, wherever it stands. It signs for clients
// that logged in or whose network is trusted, and only for the domains that it
// is told: the domain of the author in From decides, and if that is none of
// them, that of the reverse-path. Mail of others passes as it is.
//
// Keys are made on first use, kept in Caddy's storage below smtp/dkim, where
// every node of a cluster finds them, and replaced on a schedule. A new one
// signs when DNS has been seen to have its record, which `caddy smtp dkim show`
// prints; so a rotation waits for whoever publishes it. While keys are not to
// be had, messages are deferred with 451.
type Handler struct {
	// Domains are those whose mail is signed. "*.example.org" is every domain
	// below example.org, signed with the key of example.org.
	Domains []string `json:"domains,omitempty"`

	// TableRaw is a table of further domains. The first value of a domain, if it
	// has one, is the domain whose key signs; otherwise that is its own.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// Default is the domain that signs for authors of any other domain. Default:
	// none; their mail passes without a signature.
	Default string `json:"default,omitempty"`

	// AnyClient signs for strangers too. Whoever can send through this route
	// then gets signatures for any From of these domains. Default: false.
	AnyClient bool `json:"any_client,omitempty"`

	// Malformed is what happens to a message of these domains, or that has one
	// of them anywhere in its From fields, whose author readers would disagree
	// about, such as one with two From fields: "refuse" or "pass", which is
	// without a signature. Default: refuse.
	Malformed string `json:"malformed,omitempty"`

	// Keys are private keys of your own. Domains that have one get no others.
	Keys []*Key `json:"keys,omitempty"`

	// Generate says how keys are made for the other domains.
	Generate Generate `json:"generate,omitzero"`

	// Form says how signatures look.
	Form Form `json:"form,omitzero"`

	log     *slog.Logger
	storage dkimkey.Storage
	table   table
	exact   map[string]string // domain -> the domain whose key signs
	below   map[string]string // the same for all domains below
	given   map[string]*dkimkey.Ring
	store   *dkimkey.Store
	options dkimsign.Options
}

// Key is a private key of your own.
type Key struct {
	// Selector is the name under which it is published.
	Selector string `json:"selector,omitempty"`

	// Private is the key, RSA or Ed25519, in PEM or the base64 of it, or the
	// name of a file that has it, which not everybody may read or write. It may be
	// a placeholder such as
	// {env.DKIM_KEY} or {file./run/secrets/dkim}; what is written here itself,
	// the admin API shows.
	Private string `json:"private,omitempty"`

	// Domain is whose key it is. Default: all of the handler's domains.
	Domain string `json:"domain,omitempty"`
}

// Generate says how keys are made and replaced.
type Generate struct {
	// Algorithms are "rsa" and "ed25519": a message gets a signature of each.
	// Default: both, as many verifiers know only RSA.
	Algorithms []dkimkey.Algorithm `json:"algorithms,omitempty"`

	// RSABits is the length of RSA keys, 2048 to 4096. Default: 2048.
	RSABits int `json:"rsa_bits,omitempty"`

	// Selector is what their selectors begin with, before "r" or "e" and the
	// date. Hosts of one domain that share no storage need different ones.
	Selector string `json:"selector,omitempty"`

	// Rotate is how long a key signs; negative: for ever. Default: 180d.
	Rotate caddy.Duration `json:"rotate,omitempty"`

	// Overlap is how long before that its successor is made, to be published,
	// and how long it is kept afterwards, published, for what it signed.
	// Default: 7d.
	Overlap caddy.Duration `json:"overlap,omitempty"`

	// Unchecked has a new key sign when its time has come, whether or not DNS
	// was seen to have it: for hosts that do not see their public zone. Default:
	// false.
	Unchecked bool `json:"unchecked,omitempty"`
}

// Form says how signatures look.
type Form struct {
	// Canonicalization is which changes on the way a signature survives, of the
	// header and of the body: "relaxed/relaxed", "simple/simple", or mixed.
	// Default: relaxed/relaxed.
	Canonicalization string `json:"canonicalization,omitempty"`

	// Expire is for how long a signature is good. Default: for ever.
	Expire caddy.Duration `json:"expire,omitempty"`

	// Identity is the i= tag: "domain" is the author's domain, "address" the
	// author's address. Default: none.
	Identity string `json:"identity,omitempty"`

	// Headers are further header fields to sign, where a message has them. Those
	// that a reader is shown or decides by are signed anyway, and protected
	// against a second one.
	Headers []string `json:"headers,omitempty"`
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.sign", New: func() caddy.Module { return new(Handler) }}
}

// Provision reads the keys that are given and prepares for the others. Nothing
// is read from the storage before Start.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	h.log = plainlog.New(ctx.Slogger())
	if h.table, err = caddyopt.LoadModule[table](ctx, h, "TableRaw"); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	for _, f := range []func() error{h.provisionDomains, h.provisionKeys, h.provisionForm} {
		if err := f(); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
	}
	if h.storage == nil {
		h.storage = ctx.Storage()
	}
	e := env.FromContext(ctx)
	o, err := h.Generate.options()
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	o.Storage, o.Resolver, o.Log = h.storage, e.Resolver, h.log
	o.Made = func(s dkimkey.Status) {
		e.Emit("smtp_dkim_key_made", map[string]any{"domain": s.Domain, "selector": s.Selector, "name": s.Name, "record": s.Record})
	}
	h.store = dkimkey.New(o)
	e.Offer(h)
	return nil
}

func (g Generate) options() (o dkimkey.Options, err error) {
	o = dkimkey.Options{Algorithms: g.Algorithms, RSABits: g.RSABits, Selector: g.Selector}
	if len(o.Algorithms) == 0 {
		o.Algorithms = []dkimkey.Algorithm{dkimkey.RSA, dkimkey.Ed25519}
	}
	for i, a := range o.Algorithms {
		if a != dkimkey.RSA && a != dkimkey.Ed25519 || i > 0 && a == o.Algorithms[0] || i > 1 {
			return o, fmt.Errorf("algorithms: '%s' is neither rsa nor ed25519, or there twice", a)
		}
	}
	if o.RSABits == 0 {
		o.RSABits = 2048
	}
	if o.RSABits < 2048 || o.RSABits > dkim.MaxRSA {
		return o, fmt.Errorf("rsa_bits: %d is not 2048 to %d", o.RSABits, dkim.MaxRSA)
	}
	if o.Selector != "" && !isSelector(o.Selector+"r") {
		return o, fmt.Errorf("selector: '%s' cannot be the beginning of a label", o.Selector)
	}
	o.Schedule = dkimkey.Schedule{Rotate: time.Duration(g.Rotate), Overlap: time.Duration(g.Overlap), Unchecked: g.Unchecked}
	s := &o.Schedule
	switch {
	case s.Rotate == 0:
		s.Rotate = 180 * 24 * time.Hour
	case s.Rotate < 0:
		s.Rotate = 0
	}
	if s.Overlap == 0 {
		s.Overlap = 7 * 24 * time.Hour
	}
	if s.Overlap < time.Hour || s.Rotate > 0 && s.Rotate < 2*s.Overlap {
		return o, errors.New("an overlap is an hour or more, and a key signs for at least two of them")
	}
	return o, nil
}

func (h *Handler) provisionForm() error {
	f := h.Form
	o := dkimsign.Options{Expire: time.Duration(f.Expire)}
	if f.Canonicalization != "" {
		c, err := dkim.ParseCanonicalizations(f.Canonicalization)
		if err != nil {
			return err
		}
		o.Canonicalizations = c
	}
	for _, n := range f.Headers {
		if !message.ValidName(n) {
			return fmt.Errorf("headers: '%s' is not the name of a field", n)
		}
	}
	if len(f.Headers) > 0 {
		o.Fields = dkimsign.DefaultFields.With(f.Headers...)
	}
	switch f.Identity {
	case "", "domain", "address":
	default:
		return fmt.Errorf("identity: '%s' is neither domain nor address", f.Identity)
	}
	if o.Expire < 0 {
		return errors.New("expire: negative")
	}
	h.options = o
	return nil
}

// Validate checks that there is something to sign.
func (h *Handler) Validate() error {
	if len(h.exact)+len(h.below) == 0 && h.table == nil && h.Default == "" {
		return errors.New("sign: no domain to sign for")
	}
	if h.Malformed != "" && h.Malformed != "refuse" && h.Malformed != "pass" {
		return fmt.Errorf("sign: malformed: '%s' is neither refuse nor pass", h.Malformed)
	}
	return nil
}

// Start begins to look after the keys. The app calls it when its configuration
// starts.
func (h *Handler) Start() error {
	h.store.Start(h.ownDomains()...)
	return nil
}

// Cleanup ends what Start began.
func (h *Handler) Cleanup() error {
	if h.store != nil {
		h.store.Close()
	}
	return nil
}

// Seals says that it signs what all other handlers have left.
func (*Handler) Seals() session.Seal { return session.Signature }

// OnlyAnnotates says that it refuses nothing of strangers, unless it signs for
// them too.
func (h *Handler) OnlyAnnotates() bool { return !h.AnyClient }

// errNoKey is the reply while there is no key: better late than unsigned.
var errNoKey = mail.Refuse(451, "4.3.0", "the message cannot be signed now, try again later")

// HandleMessage signs the message if it is ours to sign.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	if !h.AnyClient && !tx.Session.Trusted() {
		return nil
	}
	return h.sign(ctx, m, tx.Envelope.From.Domain)
}

// SignOwn signs a message of this host's own, such as a DSN, if it has a key
// for its author.
func (h *Handler) SignOwn(ctx context.Context, m *message.Message) error { return h.sign(ctx, m, "") }

// sign signs for the author, or for whose domain the reverse-path has.
func (h *Handler) sign(ctx context.Context, m *message.Message, fallback string) error {
	from := originator.Read(m.Header)
	problem, bad := ambiguous(from)
	ring, err := h.ringFor(ctx, from.Domains(), fallback)
	if err != nil {
		return err
	}
	if bad {
		if ours, err := h.someOurs(ctx, from.Domains()); err != nil || ring == nil && !ours || h.Malformed == "pass" {
			return err
		}
		return mail.Refuse(550, "5.6.0", "not to be signed: %s", problem)
	}
	if ring == nil {
		return nil
	}
	keys, err := ring.Keys(ctx)
	if err != nil {
		h.log.Warn("message deferred: no DKIM key", "error", err)
		return errNoKey
	}
	o := h.options
	o.Identity = h.identity(from, ring.Domain())
	return dkimsign.Sign(m, keys, o)
}

// ambiguous returns what readers disagree about in who the author is.
func ambiguous(o *originator.Originator) (originator.Problem, bool) {
	for _, p := range o.Problems {
		if p.Kind.Ambiguous() && (p.Field == "From" || p.Field == "") {
			return p, true
		}
	}
	return originator.Problem{}, false
}

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Sealer         = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddy.Validator        = (*Handler)(nil)
	_ caddy.CleanerUpper     = (*Handler)(nil)
)
