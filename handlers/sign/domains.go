package sign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
)

// provisionDomains sorts the domains by how they are found.
func (h *Handler) provisionDomains() error {
	h.exact, h.below = map[string]string{}, map[string]string{}
	for _, d := range h.Domains {
		base, wild := strings.CutPrefix(d, "*.")
		n, err := parseDomain(base)
		if err != nil {
			return err
		}
		if wild {
			h.below[n] = n
		} else {
			h.exact[n] = n
		}
	}
	if h.Default == "" {
		return nil
	}
	var err error
	h.Default, err = parseDomain(h.Default)
	return err
}

func parseDomain(s string) (string, error) {
	s, err := caddy.NewReplacer().ReplaceOrErr(s, true, true)
	if err != nil {
		return "", err
	}
	d, err := mail.ParseDomain(s)
	if err == nil && strings.HasPrefix(d, "[") {
		err = errors.New("an address has no DNS records to publish keys in")
	}
	if err != nil {
		return "", fmt.Errorf("'%s' is not a domain: %w", s, err)
	}
	return d, nil
}

// provisionKeys reads the keys that are given.
func (h *Handler) provisionKeys() error {
	h.given = map[string]*dkimkey.Ring{}
	keys := map[string][]dkimsign.Key{}
	for _, k := range h.Keys {
		if !isSelector(k.Selector) {
			return fmt.Errorf("'%s' is not a selector", k.Selector)
		}
		signer, err := k.read()
		if err != nil {
			return fmt.Errorf("key %s: %w", k.Selector, err)
		}
		domains := h.ownNames()
		if k.Domain != "" {
			d, err := parseDomain(k.Domain)
			if err != nil {
				return fmt.Errorf("key %s: %w", k.Selector, err)
			}
			domains = []string{d}
		}
		for _, d := range domains {
			signer.Domain = d
			keys[d] = append(keys[d], signer)
		}
	}
	for d, ks := range keys {
		h.given[d] = dkimkey.Given(d, ks)
	}
	return nil
}

// read returns the key, whose text and file appear in no error.
func (k *Key) read() (dkimsign.Key, error) {
	key := dkimsign.Key{Selector: k.Selector}
	text, err := caddy.NewReplacer().ReplaceOrErr(k.Private, true, true)
	if err != nil {
		return key, err
	}
	if key.Signer, err = dkimkey.ParsePrivate([]byte(text)); err == nil {
		return key, nil
	}
	if strings.ContainsAny(text, "\n") || len(text) > 4096 {
		return key, err
	}
	b, readErr := readSecret(text)
	if readErr != nil {
		if pe, ok := errors.AsType[*fs.PathError](readErr); ok {
			readErr = pe.Err
		}
		return key, fmt.Errorf("%w, nor a file that can be read: %w", dkimkey.ErrPrivate, readErr)
	}
	key.Signer, err = dkimkey.ParsePrivate(b)
	return key, err
}

// readSecret reads a file that everybody can neither read nor write.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := st.Mode().Perm(); mode&0o006 != 0 {
		return nil, fmt.Errorf("everybody may use it (mode %04o)", mode)
	}
	return io.ReadAll(f)
}

// isSelector reports whether s is labels of a domain name.
func isSelector(s string) bool {
	d, err := mail.ParseDomain(s)
	return err == nil && strings.EqualFold(d, s) && !strings.HasPrefix(s, "[")
}

// ownNames are the domains of the configuration whose keys sign.
func (h *Handler) ownNames() []string {
	names := map[string]bool{}
	for _, m := range []map[string]string{h.exact, h.below} {
		for _, d := range m {
			names[d] = true
		}
	}
	if h.Default != "" {
		names[h.Default] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// ownDomains are those of them whose keys are ours to look after.
func (h *Handler) ownDomains() []string {
	return slices.DeleteFunc(h.ownNames(), func(d string) bool { return h.given[d] != nil })
}

// ring returns the keys of a domain.
func (h *Handler) ring(domain string) *dkimkey.Ring {
	if r := h.given[domain]; r != nil {
		return r
	}
	return h.store.Ring(domain)
}

// DKIMRings returns the keys that it signs with, by domain: for the admin API.
func (h *Handler) DKIMRings() []*dkimkey.Ring {
	rs := h.store.Rings()
	for _, d := range slices.Sorted(maps.Keys(h.given)) {
		rs = append(rs, h.given[d])
	}
	return rs
}

// DKIMRing returns the keys of a domain that is one of the handler's own, nil
// for others: for handlers that sign something else with them.
func (h *Handler) DKIMRing(domain string) *dkimkey.Ring {
	if !slices.Contains(h.ownNames(), domain) {
		return nil
	}
	return h.ring(domain)
}

// ringFor returns the keys that sign for authors of these domains, of which
// there must be just one; else those of the fallback, else the default. It is
// nil if the message is not ours to sign.
func (h *Handler) ringFor(ctx context.Context, authors []string, fallback string) (*dkimkey.Ring, error) {
	one := ""
	for i, d := range authors {
		by, err := h.signerOf(ctx, d)
		if err != nil {
			return nil, err
		}
		if by == "" || i > 0 && by != one {
			one = ""
			break
		}
		one = by
	}
	if one == "" && fallback != "" {
		var err error
		if one, err = h.signerOf(ctx, fallback); err != nil {
			return nil, err
		}
	}
	if one == "" {
		one = h.Default
	}
	if one == "" {
		return nil, nil
	}
	return h.ring(one), nil
}

// someOurs reports whether any of the domains is one that is signed for.
func (h *Handler) someOurs(ctx context.Context, domains []string) (bool, error) {
	for _, d := range domains {
		if by, err := h.signerOf(ctx, d); by != "" || err != nil {
			return by != "", err
		}
	}
	return false, nil
}

// signerOf returns the domain whose key signs for a domain, "" if none does.
func (h *Handler) signerOf(ctx context.Context, domain string) (string, error) {
	if by, ok := h.exact[domain]; ok || strings.HasPrefix(domain, "[") {
		return by, nil
	}
	if h.table != nil {
		v, ok, err := h.table.Lookup(ctx, domain)
		if err != nil {
			return "", fmt.Errorf("sign: table: %w", err)
		}
		if ok && len(v) > 0 && v[0] != "" {
			d, err := mail.ParseDomain(v[0])
			if err != nil {
				return "", fmt.Errorf("sign: table: '%s' is not a domain: %w", v[0], err)
			}
			return d, nil
		}
		if ok {
			return domain, nil
		}
	}
	for d := domain; ; {
		_, up, found := strings.Cut(d, ".")
		if !found {
			return "", nil
		}
		if by, ok := h.below[up]; ok {
			return by, nil
		}
		d = up
	}
}

// identity is the i= tag. It must be of the domain that signs or of one below
// it (RFC 6376, section 3.5).
func (h *Handler) identity(o *originator.Originator, domain string) string {
	if h.Form.Identity == "" || len(o.From) == 0 {
		return ""
	}
	a := o.From[0].Address
	if a.Domain != domain && !strings.HasSuffix(a.Domain, "."+domain) {
		return ""
	}
	if h.Form.Identity == "address" && a.IsASCII() && len(o.From) == 1 {
		return a.String()
	}
	return "@" + a.Domain
}
