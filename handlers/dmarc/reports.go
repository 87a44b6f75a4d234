package dmarc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dmarc"
	"github.com/caddymail/caddy-smtp/smtpapp/dmarcreport"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// Reports has aggregate reports sent to the owners of domains that ask for them
// (RFC 9990): one a day and domain, in days of UTC, by the routes of our own
// mail. So a server has to have a way out (`relay`), and From should be of a
// domain that is signed (`sign`), as reports that fail DMARC are not believed.
type Reports struct {
	// From is the author of the messages. Default: noreply-dmarc at the hostname.
	From string `json:"from,omitempty"`

	// ReversePath is where DSNs for them go. Default: the null reverse-path, so
	// that there are none.
	ReversePath string `json:"reverse_path,omitempty"`

	// OrgName is the name of whoever reports. Default: the hostname.
	OrgName string `json:"org_name,omitempty"`

	// Contact is an address for questions. Default: From.
	Contact string `json:"contact,omitempty"`

	// ExtraContact is any further contact, such as a web page.
	ExtraContact string `json:"extra_contact,omitempty"`

	// Path is the folder in which results are counted until they are sent. It is
	// made if it is not there. Default: smtp/dmarc in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// Jitter is within what time after midnight UTC reports are sent, so that
	// not all of the world sends at once. Default: 2h; negative: at once.
	Jitter caddy.Duration `json:"jitter,omitempty"`

	// Exclude are domains that get no reports.
	Exclude []string `json:"exclude,omitempty"`

	settings dmarcreport.Settings
}

// provision checks the options and completes them.
func (r *Reports) provision(h *Handler, e *env.Env) (err error) {
	if e.Submit == nil {
		return errors.New("there is no way to send them")
	}
	s := &r.settings
	if s.From, err = address(r.From, mail.Address{Local: "noreply-dmarc", Domain: e.Hostname}); err != nil {
		return fmt.Errorf("from: %w", err)
	}
	if s.ReversePath, err = address(r.ReversePath, mail.Address{}); err != nil {
		return fmt.Errorf("reverse_path: %w", err)
	}
	contact, err := address(r.Contact, s.From)
	if err != nil {
		return fmt.Errorf("contact: %w", err)
	}
	if err := domains(r.Exclude); err != nil {
		return fmt.Errorf("exclude: %w", err)
	}
	s.OrgName, s.Contact, s.Extra, s.Hostname, s.Generator = r.OrgName, contact.String(), r.ExtraContact, e.Hostname, "caddy-smtp"
	if s.OrgName == "" {
		s.OrgName = e.Hostname
	}
	switch s.Jitter = time.Duration(r.Jitter); {
	case s.Jitter == 0:
		s.Jitter = 2 * time.Hour
	case s.Jitter > 12*time.Hour:
		return errors.New("jitter: more than 12 hours")
	}
	s.Method, s.Resolver, s.Submit, s.Log = dmarc.Method(h.Method), e.Resolver, e.Submit, h.log
	s.Count = func(outcome string) { h.metrics.reports.WithLabelValues(outcome).Inc() }
	if r.Path == "" {
		r.Path = filepath.Join(caddy.AppDataDir(), "smtp", "dmarc")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(r.Path, true, true)
	if err == nil {
		r.Path, err = filepath.Abs(path)
	}
	return err
}

func address(s string, otherwise mail.Address) (mail.Address, error) {
	if s == "" {
		return otherwise, nil
	}
	return mail.ParseAddress(s)
}

// reporters are the reporters of the process by their folder, and never by
// their settings: a folder has one, whatever configuration uses it.
var (
	reporters   = caddy.NewUsagePool()
	reportersMu sync.Mutex // the pool forgets a key before it closes the value
)

type sharedReporter struct{ *dmarcreport.Reporter }

// Destruct closes the reporter when no configuration uses it any more.
func (r sharedReporter) Destruct() error { return r.Stop() }

// Start begins to count and to send. The app calls it when its configuration
// starts.
func (h *Handler) Start() error {
	reportersMu.Lock()
	defer reportersMu.Unlock()
	err := os.MkdirAll(h.Reports.Path, 0o700)
	if err == nil {
		h.location, err = filepath.EvalSymlinks(h.Reports.Path)
	}
	if err != nil {
		return fmt.Errorf("dmarc: reports: %w", err)
	}
	v, _, err := reporters.LoadOrNew(h.location, func() (caddy.Destructor, error) {
		r, err := dmarcreport.Start(h.location, h.log)
		return sharedReporter{r}, err
	})
	if err != nil {
		return fmt.Errorf("dmarc: reports: %w", err)
	}
	h.reporter = v.(sharedReporter).Reporter
	h.reporter.Attach(&h.Reports.settings)
	return nil
}

// Cleanup ends what Start began.
func (h *Handler) Cleanup() error {
	reportersMu.Lock()
	defer reportersMu.Unlock()
	if h.reporter == nil {
		return nil
	}
	h.reporter.Detach(&h.Reports.settings)
	h.reporter = nil
	_, err := reporters.Delete(h.location)
	return err
}

// count notes the message for the reports of its authors' domains.
func (h *Handler) count(tx *session.Transaction, v *verdict) {
	if h.reporter == nil {
		return
	}
	for _, e := range v.authors {
		if e.Value != dmarc.Pass && e.Value != dmarc.Fail || len(e.Record.Reports) == 0 || excluded(h.Reports.Exclude, e) {
			continue
		}
		if err := h.reporter.Add(time.Now(), published(e, h.Method), h.row(tx, v, e)); err != nil {
			h.log.Error("counting a DMARC result", "error", err)
		}
	}
}

// published is the policy as reports have it.
func published(e *dmarc.Evaluation, method string) dmarcreport.Policy {
	r := e.Record
	p := dmarcreport.Policy{Published: report.PolicyPublished{
		Domain: r.Domain, Discovery: method, Policy: string(r.Policy), Subdomain: string(r.Subdomains), Nonexist: string(r.Nonexist),
		ADKIM: mode(r.StrictDKIM), ASPF: mode(r.StrictSPF), Failure: r.FailureOptions, Testing: "n",
	}}
	if r.Testing {
		p.Published.Testing = "y"
	}
	for _, u := range r.Reports {
		p.Targets = append(p.Targets, dmarcreport.Target{Address: u.Address.String(), Max: u.Max})
	}
	return p
}

func mode(strict bool) string {
	if strict {
		return "s"
	}
	return "r"
}

// row is what a report says of a message.
func (h *Handler) row(tx *session.Transaction, v *verdict, e *dmarc.Evaluation) report.Record {
	r := report.Record{Identifiers: report.Identifiers{HeaderFrom: e.Domain, EnvelopeFrom: tx.Envelope.From.Domain}}
	if ip := tx.Session.RemoteIP(); ip.IsValid() {
		r.Row.SourceIP = ip.WithZone("").String()
	}
	r.Row.Evaluated = report.Evaluated{Disposition: "none", DKIM: passFail(e.DKIM), SPF: passFail(e.SPF)}
	switch {
	case e.Value == dmarc.Pass && e.Requested != dmarc.PolicyNone:
		r.Row.Evaluated.Disposition = "pass"
	case e.Value == dmarc.Fail:
		r.Row.Evaluated.Disposition = string(v.disposition)
		for _, o := range v.overrides {
			r.Row.Evaluated.Reasons = append(r.Row.Evaluated.Reasons, report.Reason{Type: o.kind, Comment: o.comment})
		}
		if h.Annotate && v.disposition != dmarc.PolicyNone {
			r.Row.Evaluated.Disposition = "none"
			r.Row.Evaluated.Reasons = append(r.Row.Evaluated.Reasons, report.Reason{Type: localPolicy, Comment: "policies are not applied here"})
		}
	}
	r.Auth = auth(tx)
	return r
}

func passFail(ok bool) string {
	if ok {
		return "pass"
	}
	return "fail"
}

// maxSignatures is how many signatures a row has, those that pass first.
const maxSignatures = 20

// auth are the results of DKIM and SPF, whatever they mean for DMARC.
func auth(tx *session.Transaction) (a report.AuthResults) {
	for _, r := range tx.Results {
		switch r.Method {
		case "dkim":
			if d := property(r, "header", "d"); d != "" && len(d)+len(property(r, "header", "s")) < 300 {
				a.DKIM = append(a.DKIM, report.DKIMResult{Domain: strings.ToLower(d), Selector: property(r, "header", "s"), Result: r.Value})
			}
		case "spf":
			from := property(r, "smtp", "mailfrom")
			if ds := appendDomain(nil, from); len(ds) == 1 && len(a.SPF) == 0 {
				a.SPF = append(a.SPF, report.SPFResult{Domain: ds[0], Scope: "mfrom", Result: r.Value})
			}
		}
	}
	slices.SortStableFunc(a.DKIM, func(x, y report.DKIMResult) int { return passing(y) - passing(x) })
	a.DKIM = a.DKIM[:min(len(a.DKIM), maxSignatures)]
	return a
}

func passing(r report.DKIMResult) int {
	if r.Result == "pass" {
		return 1
	}
	return 0
}

func (h *Handler) unmarshalReports(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	r := new(Reports)
	h.Reports = r
	return caddyopt.Block(d, caddyopt.Table{
		"from":          caddyopt.String(&r.From),
		"reverse_path":  caddyopt.String(&r.ReversePath),
		"org_name":      caddyopt.String(&r.OrgName),
		"contact":       caddyopt.String(&r.Contact),
		"extra_contact": caddyopt.String(&r.ExtraContact),
		"path":          caddyopt.String(&r.Path),
		"jitter": caddyopt.One(func(s string) error {
			v, err := caddy.ParseDuration(s)
			if err == nil && v == 0 {
				v = -1
			}
			r.Jitter = caddy.Duration(v)
			return err
		}),
		"exclude": caddyopt.Strings(&r.Exclude),
	})
}

var (
	_ env.Starter        = (*Handler)(nil)
	_ caddy.CleanerUpper = (*Handler)(nil)
)
