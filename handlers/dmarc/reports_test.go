package dmarc

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/dmarcreport"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// reporting returns a handler that counts for reports, as a started
// configuration has it.
func reporting(t *testing.T, h *Handler) *Handler {
	t.Helper()
	z := theZone()
	z.TXT["_dmarc.asks.test"] = []string{"v=DMARC1; p=reject; sp=quarantine; adkim=s; rua=mailto:r@asks.test!10k"}
	return provisionedWith(t, h, z)
}

func provisionedWith(t *testing.T, h *Handler, z *dnstest.Zone) *Handler {
	t.Helper()
	e := &env.Env{Hostname: "mx.test", Resolver: z, Submit: func(context.Context, mail.Address, mail.Address, *message.Message) error {
		return errors.New("not here")
	}}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), e)})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	return h
}

// counted returns what a folder's reporter has counted today.
func counted(t *testing.T, dir string) (p dmarcreport.Policy, rs []report.Record) {
	t.Helper()
	l, err := dmarcreport.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	due, err := l.Due(t.Context(), time.Now().Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range due {
		more, err := l.Records(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		p, rs = d.Policy, append(rs, more...)
	}
	return p, rs
}

func TestCounts(t *testing.T) {
	failed := dkim("fail", "asks.test")
	failed.Props = append(failed.Props, session.Property{Type: "header", Name: "s", Value: "sel"})
	for name, tc := range map[string]struct {
		h    Handler
		tx   *session.Transaction
		from string
		want *report.Record // but for the IP
	}{
		"fails": {Handler{}, transaction("x.test", spf("pass", "b@x.test"), failed, dkim("pass", "y.test")), "asks.test", &report.Record{
			Row:         report.Row{Evaluated: report.Evaluated{Disposition: "reject", DKIM: "fail", SPF: "fail"}},
			Identifiers: report.Identifiers{HeaderFrom: "asks.test", EnvelopeFrom: "x.test"},
			Auth: report.AuthResults{
				DKIM: []report.DKIMResult{{Domain: "y.test", Result: "pass"}, {Domain: "asks.test", Selector: "sel", Result: "fail"}},
				SPF:  []report.SPFResult{{Domain: "x.test", Scope: "mfrom", Result: "pass"}},
			},
		}},
		"passes": {Handler{}, transaction("asks.test", spf("pass", "asks.test")), "m.asks.test", &report.Record{
			Row:         report.Row{Evaluated: report.Evaluated{Disposition: "pass", DKIM: "fail", SPF: "pass"}},
			Identifiers: report.Identifiers{HeaderFrom: "m.asks.test", EnvelopeFrom: "asks.test"},
			Auth:        report.AuthResults{SPF: []report.SPFResult{{Domain: "asks.test", Scope: "mfrom", Result: "pass"}}},
		}},
		"forwarded": {Handler{Forwarders: []string{"192.0.2.1"}}, transaction("x.test"), "asks.test", &report.Record{
			Row: report.Row{Evaluated: report.Evaluated{Disposition: "none", DKIM: "fail", SPF: "fail", Reasons: []report.Reason{{Type: "trusted_forwarder"}}}},
			Identifiers: report.Identifiers{
				HeaderFrom: "asks.test", EnvelopeFrom: "x.test",
			},
		}},
		"annotated": {Handler{Annotate: true}, transaction(""), "sub.asks.test", &report.Record{
			Row:         report.Row{Evaluated: report.Evaluated{Disposition: "none", DKIM: "fail", SPF: "fail", Reasons: []report.Reason{{Type: "local_policy", Comment: "policies are not applied here"}}}},
			Identifiers: report.Identifiers{HeaderFrom: "sub.asks.test"},
		}},
		"nobody asks": {Handler{}, transaction("x.test"), "reject.test", nil},
		"no record":   {Handler{}, transaction("x.test"), "nowhere.test", nil},
		"DNS fails":   {Handler{}, transaction("x.test"), "fail.test", nil},
		"excluded":    {Handler{}, transaction("x.test"), "sub.excluded.asks.test", nil},
	} {
		dir := t.TempDir()
		h := tc.h
		h.Reports = &Reports{Path: dir, Jitter: caddy.Duration(time.Hour), Exclude: []string{"*.excluded.asks.test"}}
		reporting(t, &h)
		_ = h.HandleMessage(t.Context(), tc.tx, content(t, "From: a@"+tc.from))
		if err := h.Cleanup(); err != nil {
			t.Fatal(err)
		}
		p, rs := counted(t, dir)
		switch {
		case tc.want == nil:
			if len(rs) != 0 {
				t.Errorf("%s: %+v", name, rs)
			}
			continue
		case len(rs) != 1:
			t.Errorf("%s: %+v", name, rs)
			continue
		}
		tc.want.Row.SourceIP, tc.want.Row.Count = "192.0.2.1", 1
		if !reflect.DeepEqual(rs[0], *tc.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, rs[0], *tc.want)
		}
		want := dmarcreport.Policy{
			Published: report.PolicyPublished{Domain: "asks.test", Discovery: "treewalk", Policy: "reject", Subdomain: "quarantine", ADKIM: "s", ASPF: "r", Failure: "0", Testing: "n"},
			Targets:   []dmarcreport.Target{{Address: "r@asks.test", Max: 10 << 10}},
		}
		if !reflect.DeepEqual(p, want) {
			t.Errorf("%s: policy %+v", name, p)
		}
	}
}

// TestShared: a folder has one reporter, which the last configuration closes.
func TestShared(t *testing.T) {
	dir := t.TempDir()
	old := reporting(t, &Handler{Reports: &Reports{Path: dir}})
	h := reporting(t, &Handler{Reports: &Reports{Path: filepath.Join(dir, ".")}})
	if old.reporter != h.reporter {
		t.Error("two reporters")
	}
	if err := old.Cleanup(); err != nil {
		t.Fatal(err)
	}
	_ = h.HandleMessage(t.Context(), transaction("x.test"), content(t, "From: a@asks.test"))
	for range 2 {
		if err := h.Cleanup(); err != nil {
			t.Fatal(err)
		}
	}
	if _, rs := counted(t, dir); len(rs) != 1 {
		t.Errorf("%+v", rs)
	}
	if err := new(Handler).Cleanup(); err != nil {
		t.Error(err)
	}
}

func TestReportsOptions(t *testing.T) {
	h := reporting(t, &Handler{Reports: &Reports{Path: t.TempDir()}})
	defer h.Cleanup()
	s := h.Reports.settings
	if s.From.String() != "noreply-dmarc@mx.test" || !s.ReversePath.IsNull() || s.OrgName != "mx.test" || s.Contact != "noreply-dmarc@mx.test" || s.Jitter != 2*time.Hour {
		t.Errorf("%+v", s)
	}
	for _, r := range []*Reports{{From: "x"}, {ReversePath: "x"}, {Contact: "x"}, {Exclude: []string{"a b"}}, {Jitter: caddy.Duration(13 * time.Hour)}, {Path: "{nothing.there}"}} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), &env.Env{
			Hostname: "mx.test", Submit: func(context.Context, mail.Address, mail.Address, *message.Message) error { return nil },
		})})
		if (&Handler{Reports: r}).Provision(ctx) == nil {
			t.Errorf("%+v is taken", r)
		}
		cancel()
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if (&Handler{Reports: new(Reports)}).Provision(ctx) == nil {
		t.Error("there is no way to send reports")
	}
	if err := (&Handler{Reports: &Reports{Path: "/dev/null/x"}}).Start(); err == nil {
		t.Error("a folder in a file")
	}
	for in, ok := range map[string]bool{
		"dmarc {\nreports\n}": true,
		"dmarc {\nreports {\nfrom a@b.test\nreverse_path c@b.test\norg_name \"A B\"\ncontact d@b.test\nextra_contact https://b.test\npath /x\njitter 0s\nexclude x.test *.y.test\n}\n}": true,
		"dmarc {\nreports x\n}": false, "dmarc {\nreports {\nx\n}\n}": false, "dmarc {\nreports {\njitter x\n}\n}": false, "dmarc {\nreports\nreports\n}": false,
	} {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
		if ok && h.Reports.OrgName != "" && (h.Reports.OrgName != "A B" || h.Reports.Jitter != -1 || len(h.Reports.Exclude) != 2) {
			t.Errorf("%+v", h.Reports)
		}
	}
}
