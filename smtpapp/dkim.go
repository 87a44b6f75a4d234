package smtpapp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// What modules that have DKIM keys can do; they offer themselves.
type (
	keyHolder interface{ DKIMRings() []*dkimkey.Ring }
	ownSigner interface {
		SignOwn(ctx context.Context, m *message.Message) error
	}
)

// signOwn signs a message of the queue's own with the first key that fits. One
// that cannot be signed goes without: it is a DSN, and there is nobody to defer
// it to.
func (a *App) signOwn(ctx context.Context, m *message.Message) {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // deliveries wait meanwhile
	defer cancel()
	for _, s := range env.All[ownSigner](a.env) {
		signed := m.Fork()
		if err := trySign(ctx, s, signed); err != nil {
			a.log.Sugar().Warnw("a DSN goes unsigned", "error", err)
			continue
		}
		if signed.Header.Len() > m.Header.Len() {
			*m.Header = *signed.Header
			return
		}
	}
}

// trySign makes an error of a panic: a DSN had better go unsigned than not at
// all.
func trySign(ctx context.Context, s ownSigner, m *message.Message) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic in %T: %v\n%s", s, v, debug.Stack())
		}
	}()
	return s.SignOwn(ctx, m)
}

// A keyView is a DKIM key as the API shows it.
type keyView struct {
	Domain    string    `json:"domain"`
	Selector  string    `json:"selector"`
	Algorithm string    `json:"algorithm"`
	State     string    `json:"state"`
	Name      string    `json:"name"`
	Record    string    `json:"record"`
	Created   time.Time `json:"created,omitzero"`
	Signs     time.Time `json:"signs_from,omitzero"`
	Published time.Time `json:"published,omitzero"`
	Removed   time.Time `json:"removed_from,omitzero"`
	DNS       string    `json:"dns,omitempty"` // if it was asked for
}

// dkim answers with the keys of all domains, or of one.
func (a *admin) dkim(w http.ResponseWriter, r *http.Request) error {
	if err := method(r, http.MethodGet); err != nil {
		return err
	}
	domain, check, err := keyQuery(r, "check")
	if err != nil {
		return err
	}
	app, err := activeApp()
	if err != nil {
		return err
	}
	keys, err := app.keys(r.Context(), domain, check)
	if err != nil {
		return err
	}
	return answer(w, keys)
}

// rotateDKIM replaces the keys of a domain and answers with them.
func (a *admin) rotateDKIM(w http.ResponseWriter, r *http.Request) error {
	if err := method(r, http.MethodPost); err != nil {
		return err
	}
	domain, now, err := keyQuery(r, "now")
	if err == nil && domain == "" {
		err = apiError(http.StatusBadRequest, errors.New("domain: which one?"))
	}
	if err != nil {
		return err
	}
	app, err := activeApp()
	if err != nil {
		return err
	}
	if err := app.rotate(r.Context(), domain, now); err != nil {
		return err
	}
	keys, err := app.keys(r.Context(), domain, false)
	if err != nil {
		return err
	}
	return answer(w, keys)
}

// keyQuery reads the query: a domain and a flag.
func keyQuery(r *http.Request, flag string) (domain string, set bool, err error) {
	for name, values := range r.URL.Query() {
		switch name {
		case "domain":
			domain = strings.ToLower(strings.TrimSuffix(values[0], "."))
		case flag:
			if set, err = strconv.ParseBool(values[0]); err != nil {
				return "", false, apiError(http.StatusBadRequest, fmt.Errorf("%s: true or false?", flag))
			}
		default:
			return "", false, apiError(http.StatusBadRequest, fmt.Errorf("no parameter %q", name))
		}
	}
	return domain, set, nil
}

// rings are the keys of a domain, or of all for "". Several handlers may have
// the same.
func (a *App) rings(domain string) ([]*dkimkey.Ring, error) {
	var out []*dkimkey.Ring
	for _, h := range env.All[keyHolder](a.env) {
		for _, r := range h.DKIMRings() {
			if domain == "" || r.Domain() == domain {
				out = append(out, r)
			}
		}
	}
	if len(out) == 0 && domain != "" {
		return nil, apiError(http.StatusNotFound, fmt.Errorf("there are no keys of %q", domain))
	}
	return out, nil
}

func (a *App) keys(ctx context.Context, domain string, check bool) ([]keyView, error) {
	rings, err := a.rings(domain)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	out := []keyView{}
	for _, r := range rings {
		if check { // what DNS has may be waited for
			if err := r.Refresh(ctx); err != nil {
				return nil, apiError(http.StatusInternalServerError, err)
			}
		}
		for _, s := range r.Status() {
			if seen[s.Name] {
				continue
			}
			seen[s.Name] = true
			v := keyView{
				Domain: s.Domain, Selector: s.Selector, Algorithm: string(s.Algorithm), State: string(s.State),
				Name: s.Name, Record: s.Record, Created: s.Created, Signs: s.Signs, Published: s.Published, Removed: s.Removed,
			}
			if check {
				v.DNS = string(s.Check(ctx, a.env.Resolver))
			}
			out = append(out, v)
		}
	}
	return out, nil
}

// rotate replaces the keys of a domain once; whoever else has it reads anew.
func (a *App) rotate(ctx context.Context, domain string, now bool) error {
	rings, err := a.rings(domain)
	if err != nil {
		return err
	}
	rotated := false
	for _, r := range rings {
		if !rotated {
			err = r.Rotate(ctx, now)
			rotated = err == nil
		} else {
			err = r.Refresh(ctx)
		}
		if err != nil && !errors.Is(err, dkimkey.ErrGiven) {
			return apiError(http.StatusInternalServerError, err)
		}
	}
	if !rotated {
		return apiError(http.StatusConflict, dkimkey.ErrGiven)
	}
	return nil
}
