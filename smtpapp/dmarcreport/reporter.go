package dmarcreport

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dmarc"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
)

// Settings are what a configuration says about reports.
type Settings struct {
	// OrgName, Contact and Extra say who reports (RFC 9990, section 3.1.1.3).
	OrgName, Contact, Extra string
	// Hostname is the submitter in subjects and file names.
	Hostname string
	// From is the author of the messages, ReversePath where DSNs go; null, if to
	// nobody.
	From, ReversePath mail.Address
	// Jitter is within what time after midnight UTC reports are sent.
	Jitter time.Duration
	// Generator is this program's name and version.
	Generator string

	Method   dmarc.Method
	Resolver dns.Resolver
	// Submit sends a message. A *mail.Reply is a refusal.
	Submit func(ctx context.Context, from, to mail.Address, m *message.Message) error
	// Count, if not nil, hears of each report: sent, refused, unauthorized,
	// too_large or too_many.
	Count func(outcome string)
	Log   *slog.Logger
}

// A Reporter sends what is in a ledger. It belongs to the process; the newest
// configuration's settings are in force.
type Reporter struct {
	*Ledger

	mu     sync.Mutex
	owners []*Settings
	wake   chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Start opens the ledger in a folder and begins to send.
func Start(dir string, log *slog.Logger) (*Reporter, error) {
	l, err := Open(dir, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Reporter{Ledger: l, wake: make(chan struct{}, 1), cancel: cancel}
	r.done.Go(func() { r.run(ctx) })
	return r, nil
}

// Stop ends sending and closes the ledger.
func (r *Reporter) Stop() error {
	r.cancel()
	r.done.Wait()
	return r.Close()
}

// Attach puts settings in force until Detach, which puts those before them in
// force again.
func (r *Reporter) Attach(s *Settings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners = append(r.owners, s)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Detach takes settings out of force.
func (r *Reporter) Detach(s *Settings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, o := range r.owners {
		if o == s {
			r.owners = append(r.owners[:i:i], r.owners[i+1:]...)
			return
		}
	}
}

func (r *Reporter) settings() *Settings {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.owners) == 0 {
		return nil
	}
	return r.owners[len(r.owners)-1]
}

// retry is when to try again what could not be sent.
const retry = time.Hour

// run sends at some time after each midnight and, if something was left, every
// hour. What was left by a run of this program before comes first.
func (r *Reporter) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-r.wake:
	}
	for {
		wait := retry
		if s := r.settings(); s != nil && !sleep(ctx, rand.N(max(s.Jitter, 1))) {
			return
		}
		if s := r.settings(); s != nil {
			left, err := r.SendDue(ctx, s, time.Now())
			if err != nil && ctx.Err() == nil {
				s.Log.Error("sending DMARC reports", "error", err)
			}
			if left == 0 && err == nil {
				wait = time.Until(time.Now().UTC().Truncate(Day).Add(Day)) + time.Minute
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// SendDue sends the reports of the days that have ended, and returns how many
// are left to be tried again.
func (r *Reporter) SendDue(ctx context.Context, s *Settings, now time.Time) (left int, err error) {
	if err := r.Flush(); err != nil {
		return 0, err
	}
	if err := r.Expire(ctx, now); err != nil {
		return 0, err
	}
	due, err := r.Due(ctx, now)
	if err != nil {
		return 0, err
	}
	per := map[string]int{} // reports by day and organisation
	for _, d := range due {
		done, err := r.send(ctx, s, d, per)
		if err != nil {
			return len(due), err
		}
		if !done {
			left++
			continue
		}
		if err := r.Done(ctx, d); err != nil {
			return len(due), err
		}
	}
	return left, nil
}

// maxPerOrganisation is how many reports a day one organisation gets on its
// domains. Without it, a wildcard in DNS and mail in many names would have us
// send as many reports to whoever its MX records name.
const maxPerOrganisation = 50

// send sends one report to all its targets. It is done unless one has to be
// tried again.
func (r *Reporter) send(ctx context.Context, s *Settings, d Due, per map[string]int) (done bool, err error) {
	records, err := r.Records(ctx, d)
	if err != nil {
		return false, err
	}
	org, targets, temporary := s.targets(ctx, d.Policy)
	if len(records) == 0 || len(targets) == 0 && !temporary {
		s.count("unauthorized")
		return true, nil
	}
	if len(targets) > 0 {
		k := fmt.Sprintf("%d %s", d.day(), org)
		if per[k]++; per[k] > maxPerOrganisation {
			s.count("too_many")
			return true, nil
		}
	}
	a := s.aggregate(d, records)
	done = !temporary
	for _, t := range targets {
		sent, err := r.Sent(ctx, d, a.Metadata.ReportID, t.Address)
		if err != nil {
			return false, err
		}
		if sent {
			continue
		}
		again, err := s.deliver(ctx, a, t)
		switch {
		case err != nil:
			return false, err
		case again:
			done = false
			continue
		}
		if err := r.MarkSent(ctx, d, a.Metadata.ReportID, t.Address); err != nil {
			return false, err
		}
	}
	return done, nil
}

// deliver sends a report to one target.
func (s *Settings) deliver(ctx context.Context, a *report.Aggregate, t Target) (again bool, err error) {
	to, err := mail.ParseAddress(t.Address)
	if err != nil {
		s.count("refused")
		return false, nil
	}
	m, err := s.Compose(a, to)
	if err != nil {
		return false, err
	}
	log := s.Log.With("domain", a.Policy.Domain, "to", t.Address, "report_id", a.Metadata.ReportID)
	if t.Max > 0 && m.Size() > t.Max {
		log.Info("a DMARC report is too large for its recipient", "size", m.Size(), "limit", t.Max)
		s.count("too_large")
		return false, nil
	}
	if err := s.Submit(ctx, s.ReversePath, to, m); err != nil {
		reply := mail.ReplyFor(err)
		if reply.Temporary() {
			log.Info("a DMARC report is sent later", "reply", reply.Error())
			return true, nil
		}
		log.Warn("a DMARC report is not sent", "reply", reply.Error())
		s.count("refused")
		return false, nil
	}
	log.Info("DMARC report sent", "records", len(a.Records))
	s.count("sent")
	return false, nil
}

func (s *Settings) count(outcome string) {
	if s.Count != nil {
		s.Count(outcome)
	}
}

// aggregate is the report of a day. Its id follows from what it is about, so
// that one that is sent again after a crash is known as a repeat.
func (s *Settings) aggregate(d Due, records []report.Record) *report.Aggregate {
	begin := d.Day.Unix()
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s", begin, d.policy, s.Hostname))
	return &report.Aggregate{
		Metadata: report.Metadata{
			OrgName: s.OrgName, Email: s.Contact, ExtraContact: s.Extra, Generator: s.Generator,
			ReportID: hex.EncodeToString(sum[:12]) + "@" + s.Hostname, Range: report.DateRange{Begin: begin, End: begin + int64(Day/time.Second) - 1},
		},
		Policy: d.Policy.Published, Records: records,
	}
}

// targets are those that want the report (RFC 9990, section 4). temporary says
// that DNS did not tell of one.
// org is the organisation that the policy is of.
func (s *Settings) targets(ctx context.Context, p Policy) (org string, ts []Target, temporary bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	f := dmarc.NewFinder(s.Resolver, s.Method)
	org, err := f.Organisation(ctx, p.Published.Domain)
	if err != nil {
		return "", nil, true
	}
	for _, t := range p.Targets {
		host := t.Address[strings.LastIndexByte(t.Address, '@')+1:]
		own, err := f.Organisation(ctx, host)
		if err == nil && own == org {
			ts = append(ts, t)
			continue
		}
		var others []Target
		if err == nil {
			others, err = s.external(ctx, p.Published.Domain, host, t)
		}
		temporary = temporary || err != nil
		ts = append(ts, others...)
	}
	return org, distinct(ts), temporary
}

// maxTargets is how many messages a report makes, as many as a record can name.
// Those that a host names instead of one would else be without end.
const maxTargets = 10

// distinct returns the first targets, each address once.
func distinct(ts []Target) []Target {
	seen := map[string]bool{}
	ts = slices.DeleteFunc(ts, func(t Target) bool {
		again := seen[t.Address]
		seen[t.Address] = true
		return again
	})
	return ts[:min(len(ts), maxTargets)]
}

// external asks whether a host takes reports on a domain of somebody else (RFC
// 9990, section 4). It may name other addresses at the same host.
func (s *Settings) external(ctx context.Context, domain, host string, t Target) ([]Target, error) {
	name := domain + "._report._dmarc." + host
	if len(name) > 253 {
		return nil, nil
	}
	txts, err := s.Resolver.LookupTXT(ctx, name)
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	authorized := false
	var others []Target
	for _, txt := range txts {
		r, err := dmarc.Parse(txt)
		if err != nil {
			continue
		}
		authorized = true
		for _, u := range r.Reports {
			if u.Address.Domain != host {
				return nil, nil // a loop, or somebody else's harm
			}
			others = append(others, Target{u.Address.String(), u.Max})
		}
	}
	switch {
	case !authorized:
		return nil, nil
	case len(others) > 0:
		return others, nil
	}
	return []Target{t}, nil
}
