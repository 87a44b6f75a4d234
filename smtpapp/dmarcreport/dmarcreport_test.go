package dmarcreport

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dmarc"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
)

var day = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

func openLedger(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func policyOf(domain string, targets ...string) Policy {
	p := Policy{Published: report.PolicyPublished{Domain: domain, Policy: "reject", Discovery: "treewalk"}}
	for _, a := range targets {
		p.Targets = append(p.Targets, Target{Address: a})
	}
	return p
}

func record(ip string) report.Record {
	return report.Record{Row: report.Row{SourceIP: ip, Evaluated: report.Evaluated{Disposition: "reject", DKIM: "fail", SPF: "fail"}}, Identifiers: report.Identifiers{HeaderFrom: "a.test"}}
}

func add(t testing.TB, l *Ledger, at time.Time, p Policy, r report.Record) {
	t.Helper()
	if err := l.Add(at, p, r); err != nil {
		t.Fatal(err)
	}
}

// TestLedger: what is counted is there after the ledger was closed and opened
// again, by days and policies.
func TestLedger(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir)
	a, b := policyOf("a.test", "r@a.test"), policyOf("b.test", "r@b.test")
	for range 3 {
		add(t, l, day.Add(time.Hour), a, record("192.0.2.1"))
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	add(t, l, day.Add(23*time.Hour+59*time.Minute+59*time.Second), a, record("192.0.2.1"))
	add(t, l, day, a, record("192.0.2.2"))
	add(t, l, day, b, record("192.0.2.1"))
	add(t, l, day.Add(Day), a, record("192.0.2.1"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLedger(t, dir)
	due, err := l.Due(t.Context(), day.Add(Day+time.Hour))
	if err != nil || len(due) != 2 || !due[0].Day.Equal(day) || due[0].Policy.Published.Domain != "a.test" || due[1].Policy.Targets[0].Address != "r@b.test" {
		t.Fatalf("%+v, %v", due, err)
	}
	rs, err := l.Records(t.Context(), due[0])
	if err != nil || len(rs) != 2 || rs[0].Row.Count != 4 || rs[0].Row.SourceIP != "192.0.2.1" || rs[1].Row.Count != 1 {
		t.Fatalf("%+v, %v", rs, err)
	}
	if err := l.Done(t.Context(), due[0]); err != nil {
		t.Fatal(err)
	}
	if due, err := l.Due(t.Context(), day.Add(Day)); err != nil || len(due) != 1 {
		t.Errorf("%+v, %v", due, err)
	}
	if due, err := l.Due(t.Context(), day.Add(2*Day)); err != nil || len(due) != 2 {
		t.Errorf("the next day: %+v, %v", due, err)
	}
	if err := l.Expire(t.Context(), day.Add(keep+Day)); err != nil {
		t.Fatal(err)
	}
	if due, err := l.Due(t.Context(), day.Add(5*Day)); err != nil || len(due) != 1 {
		t.Errorf("what is too old stays: %+v, %v", due, err)
	}
}

// TestLedgerIsBounded: whoever sends mail from everywhere in all names fills
// what there is for his domain, and no more.
func TestLedgerIsBounded(t *testing.T) {
	l := openLedger(t, t.TempDir())
	p := policyOf("a.test", "r@a.test")
	for i := range maxDomainRows + 100 {
		if i%(maxPendingShare-1) == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		add(t, l, day, p, record(fmt.Sprintf("2001:db8::%x", i)))
	}
	for range 2 {
		add(t, l, day, policyOf("b.test", "r@b.test"), record("192.0.2.1"))
	}
	add(t, l, day, p, record("2001:db8::0"))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	due, err := l.Due(t.Context(), day.Add(Day))
	if err != nil || len(due) != 2 {
		t.Fatal(due, err)
	}
	rs, err := l.Records(t.Context(), due[0])
	if err != nil || len(rs) != maxDomainRows || rs[0].Row.Count != 2 || rs[0].Row.SourceIP != "2001:db8::0" {
		t.Errorf("%d records, %v", len(rs), err)
	}
	if rs, err := l.Records(t.Context(), due[1]); err != nil || rs[0].Row.Count != 2 {
		t.Errorf("another domain: %+v, %v", rs, err)
	}
	for i := range maxPending + 10 {
		add(t, l, day.Add(Day), p, record(fmt.Sprintf("2001:db8::%x", i)))
	}
	if len(l.pending) != maxPendingShare || l.dropped != maxPending+10-maxPendingShare {
		t.Errorf("%d pending, %d dropped", len(l.pending), l.dropped)
	}
	for i := range maxPending {
		add(t, l, day.Add(Day), policyOf(fmt.Sprintf("d%d.test", i)), record("192.0.2.1"))
	}
	if len(l.pending) != maxPending {
		t.Errorf("%d pending", len(l.pending))
	}
}

// TestLedgerShare: a wildcard in DNS makes any number of domains with policies of
// their own, which share what one domain has; the day goes on for others.
func TestLedgerShare(t *testing.T) {
	l := openLedger(t, t.TempDir())
	work := map[key]int64{}
	for i := range int64(maxShare) + 50 {
		work[key{1, fmt.Sprintf("d%d.wild.test", i), "{}", "{}"}] = 2
	}
	if dropped, err := l.write(work); err != nil || dropped != 100 {
		t.Errorf("dropped %d, %v", dropped, err)
	}
	for _, tc := range []struct {
		k    key
		want int64
	}{
		{key{1, "other.test", "{}", "{}"}, 0},
		{key{1, "another.wild.test", "{}", "{}"}, 1},
		{key{2, "another.wild.test", "{}", "{}"}, 0}, // the next day
	} {
		for range 2 { // as counted before, and anew
			if dropped, err := l.write(map[key]int64{tc.k: 1}); err != nil || dropped != tc.want {
				t.Errorf("%+v: dropped %d, %v", tc.k, dropped, err)
			}
			l.rows = nil
		}
	}
	if err := l.Expire(t.Context(), time.Unix(0, 0).Add(keep+2*Day)); err != nil {
		t.Fatal(err)
	}
	if dropped, err := l.write(map[key]int64{{1, "another.wild.test", "{}", "{}"}: 1}); err != nil || dropped != 0 {
		t.Errorf("after the day was removed: dropped %d, %v", dropped, err)
	}
}

// TestLedgerIsLocked: what two processes send, everybody gets twice.
func TestLedgerIsLocked(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir)
	if other, err := Open(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v, %v", other, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	openLedger(t, dir)
}

func TestLedgerFails(t *testing.T) {
	if _, err := Open("/dev/null/x", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder in a file")
	}
	l := openLedger(t, t.TempDir())
	add(t, l, day, policyOf("a.test"), record("192.0.2.1"))
	if _, err := l.db.Exec("alter table result rename to other"); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err == nil || len(l.pending) != 1 {
		t.Errorf("what cannot be written is lost: %v, %d", err, len(l.pending))
	}
	if _, err := l.db.Exec("alter table other rename to result"); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil || len(l.pending) != 0 {
		t.Errorf("%v, %d", err, len(l.pending))
	}
}

// outbox takes what is submitted.
type outbox struct {
	messages map[string]*message.Message // by recipient
	from     mail.Address
	refuse   map[string]error
	outcomes []string
}

func settings(zone *dnstest.Zone) (*Settings, *outbox) {
	o := &outbox{messages: map[string]*message.Message{}, refuse: map[string]error{}}
	return &Settings{
		OrgName: "Example & Co", Contact: "postmaster@mx.test", Extra: "https://mx.test/", Hostname: "mx.test", Generator: "test",
		From: mail.Address{Local: "noreply", Domain: "mx.test"}, Method: dmarc.TreeWalk, Resolver: zone, Log: slog.New(slog.DiscardHandler),
		Submit: func(_ context.Context, from, to mail.Address, m *message.Message) error {
			if err := o.refuse[to.String()]; err != nil {
				return err
			}
			o.messages[to.String()], o.from = m, from
			return nil
		},
		Count: func(s string) { o.outcomes = append(o.outcomes, s) },
	}, o
}

// reporter is one that sends nothing by itself.
func reporter(t *testing.T) *Reporter { return &Reporter{Ledger: openLedger(t, t.TempDir())} }

// TestSends: the report is as RFC 9990 wants it, and says what was counted.
func TestSends(t *testing.T) {
	r := reporter(t)
	s, out := settings(&dnstest.Zone{})
	for range 2 {
		add(t, r.Ledger, day.Add(time.Hour), policyOf("a.test", "dmarc@a.test"), record("192.0.2.1"))
	}
	if left, err := r.SendDue(t.Context(), s, day.Add(Day-time.Second)); err != nil || left != 0 || len(out.messages) != 0 {
		t.Fatalf("the day has not ended: %d, %v, %d sent", left, err, len(out.messages))
	}
	if left, err := r.SendDue(t.Context(), s, day.Add(Day)); err != nil || left != 0 {
		t.Fatalf("%d, %v", left, err)
	}
	m := out.messages["dmarc@a.test"]
	if m == nil || out.from != (mail.Address{}) {
		t.Fatalf("%+v", out)
	}
	if got := m.Header.Get("Subject"); !regexp.MustCompile(`^Report Domain: a\.test Submitter: mx\.test Report-ID: <[0-9a-f]{24}@mx\.test>$`).MatchString(got) {
		t.Error(got)
	}
	if m.Header.Get("Auto-Submitted") != "auto-generated" || m.Header.Get("From") != "noreply@mx.test" || m.Header.Get("To") != "dmarc@a.test" {
		t.Error(string(m.Header.Bytes()))
	}
	body, _ := m.Body().Bytes()
	name := fmt.Sprintf(`filename="mx\.test!a\.test!%d!%d![0-9a-f]+\.xml\.gz"`, day.Unix(), day.Add(Day).Unix()-1)
	if !regexp.MustCompile(name).Match(body) || !bytes.Contains(body, []byte("Content-Type: application/gzip\r\n")) {
		t.Errorf("%s", body[:400])
	}
	if m.Body().EightBit() || m.Body().LongestLine() > 200 {
		t.Error("8-bit content or a long line")
	}
	rs, err := report.Find(m)
	if err != nil || len(rs.Aggregates) != 1 {
		t.Fatal(err)
	}
	a := rs.Aggregates[0]
	if a.Metadata.OrgName != "Example & Co" || a.Metadata.Range != (report.DateRange{Begin: day.Unix(), End: day.Add(Day).Unix() - 1}) ||
		a.Policy.Policy != "reject" || len(a.Records) != 1 || a.Records[0].Row.Count != 2 || a.Records[0].Row.SourceIP != "192.0.2.1" {
		t.Errorf("%+v", a)
	}
	clear(out.messages)
	if _, err := r.SendDue(t.Context(), s, day.Add(Day)); err != nil || len(out.messages) != 0 {
		t.Errorf("it is sent twice: %v", err)
	}
	if !slices.Equal(out.outcomes, []string{"sent"}) {
		t.Error(out.outcomes)
	}
}

// TestTargets: only who wants reports gets them (RFC 9990, section 4).
func TestTargets(t *testing.T) {
	zone := &dnstest.Zone{
		TXT: map[string][]string{
			"_dmarc.a.test":                         {"v=DMARC1; p=reject"},
			"a.test._report._dmarc.yes.test":        {"v=DMARC1"},
			"a.test._report._dmarc.other.test":      {"v=DMARC1; rua=mailto:else@other.test!50k,mailto:two@other.test"},
			"a.test._report._dmarc.elsewhere.test":  {"v=DMARC1; rua=mailto:victim@victim.test"},
			"a.test._report._dmarc.wrong.test":      {"v=spf1 -all", "x"},
			"sub.a.test._report._dmarc.special.org": {"v=DMARC1;"},
		},
		Fail: map[string]bool{"a.test._report._dmarc.fail.test": true},
	}
	for _, tc := range []struct {
		domain, target, want string
		temporary            bool
	}{
		{"a.test", "r@a.test", "r@a.test", false},
		{"a.test", "r@mail.a.test", "r@mail.a.test", false},
		{"sub.a.test", "r@a.test", "r@a.test", false},
		{"a.test", "r@yes.test", "r@yes.test", false},
		{"a.test", "r@other.test", "else@other.test two@other.test", false},
		{"a.test", "r@elsewhere.test", "", false},
		{"a.test", "r@wrong.test", "", false},
		{"a.test", "r@no.test", "", false},
		{"a.test", "r@nota.test", "", false},
		{"a.test", "r@fail.test", "", true},
		{"sub.a.test", "r@special.org", "r@special.org", false},
		{"a.test", "r@" + strings.Repeat("a234567890.", 21) + "test", "", false},
	} {
		s, _ := settings(zone)
		_, ts, temporary := s.targets(t.Context(), policyOf(tc.domain, tc.target))
		var got []string
		for _, t := range ts {
			got = append(got, t.Address)
		}
		if strings.Join(got, " ") != tc.want || temporary != tc.temporary {
			t.Errorf("%s to %s: got %v, %v, want %s", tc.domain, tc.target, got, temporary, tc.want)
		}
		if tc.target == "r@other.test" && ts[0].Max != 50<<10 {
			t.Errorf("limit %d", ts[0].Max)
		}
	}
}

// TestTriesAgain: what is refused for now is sent later, and to none twice.
func TestTriesAgain(t *testing.T) {
	r := reporter(t)
	zone := &dnstest.Zone{Fail: map[string]bool{"a.test._report._dmarc.fail.test": true}}
	s, out := settings(zone)
	out.refuse["later@a.test"] = mail.Refuse(451, "4.3.0", "not now")
	out.refuse["never@a.test"] = mail.Refuse(550, "5.1.1", "no such user")
	out.refuse["fault@a.test"] = errors.New("disk")
	p := policyOf("a.test", "first@a.test", "later@a.test", "never@a.test", "r@fail.test", "fault@a.test", "large@a.test", "not an address")
	p.Targets[5].Max = 100
	add(t, r.Ledger, day, p, record("192.0.2.1"))
	if left, err := r.SendDue(t.Context(), s, day.Add(Day)); err != nil || left != 1 || len(out.messages) != 1 {
		t.Fatalf("%d left, %v, %d sent", left, err, len(out.messages))
	}
	id := out.messages["first@a.test"].Header.Get("Subject")
	clear(out.messages)
	clear(out.refuse)
	zone.Change(func(z *dnstest.Zone) {
		z.Fail, z.TXT = nil, map[string][]string{"a.test._report._dmarc.fail.test": {"v=DMARC1"}}
	})
	if left, err := r.SendDue(t.Context(), s, day.Add(Day+time.Hour)); err != nil || left != 0 {
		t.Fatalf("%d left, %v", left, err)
	}
	var to []string
	for a, m := range out.messages {
		to = append(to, a)
		if m.Header.Get("Subject") != id {
			t.Errorf("another id: %s", m.Header.Get("Subject"))
		}
	}
	slices.Sort(to)
	if !slices.Equal(to, []string{"fault@a.test", "later@a.test", "r@fail.test"}) {
		t.Errorf("sent to %v", to)
	}
	slices.Sort(out.outcomes)
	if got := strings.Join(out.outcomes, " "); got != "refused sent sent sent sent too_large" {
		t.Error(got)
	}
}

// TestManyTargets: a host that takes reports for others cannot make many
// messages of one, nor name an address more than once.
func TestManyTargets(t *testing.T) {
	zone := &dnstest.Zone{TXT: map[string][]string{}}
	name := "a.test._report._dmarc.evil.test"
	for i := range 20 {
		zone.TXT[name] = append(zone.TXT[name], fmt.Sprintf("v=DMARC1; rua=mailto:%d@evil.test,mailto:same@evil.test,mailto:x%d@evil.test", i, i))
	}
	s, _ := settings(zone)
	_, ts, _ := s.targets(t.Context(), policyOf("a.test", "r@evil.test", "s@evil.test", "r@a.test", "r@a.test"))
	seen := map[string]bool{}
	for _, target := range ts {
		if seen[target.Address] {
			t.Errorf("%s twice", target.Address)
		}
		seen[target.Address] = true
	}
	if len(ts) != maxTargets {
		t.Errorf("%d targets", len(ts))
	}
}

// TestManyDomainsOfOne: mail in the name of all that a wildcard stands for does
// not make as many reports.
func TestManyDomainsOfOne(t *testing.T) {
	r := reporter(t)
	s, out := settings(&dnstest.Zone{TXT: map[string][]string{"_dmarc.evil.test": {"v=DMARC1; p=none"}}})
	for i := range maxPerOrganisation + 20 {
		add(t, r.Ledger, day, policyOf(fmt.Sprintf("d%d.evil.test", i), fmt.Sprintf("r@d%d.evil.test", i)), record("192.0.2.1"))
	}
	add(t, r.Ledger, day, policyOf("good.test", "r@good.test"), record("192.0.2.1"))
	if left, err := r.SendDue(t.Context(), s, day.Add(Day)); err != nil || left != 0 {
		t.Fatalf("%d left, %v", left, err)
	}
	if out.messages["r@good.test"] == nil || len(out.messages) != maxPerOrganisation+1 {
		t.Errorf("%d reports", len(out.messages))
	}
}

// TestReporter: the newest settings are in force, and what was due when the
// program began is sent.
func TestReporter(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir)
	add(t, l, time.Now().Add(-Day), policyOf("a.test", "r@a.test"), record("192.0.2.1"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Start(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	old, _ := settings(&dnstest.Zone{})
	s, _ := settings(&dnstest.Zone{})
	sent := make(chan mail.Address, 1)
	s.Submit = func(_ context.Context, _, to mail.Address, _ *message.Message) error {
		sent <- to
		return nil
	}
	r.mu.Lock()
	r.owners = append(r.owners, old)
	r.mu.Unlock()
	r.Attach(s)
	select {
	case to := <-sent:
		if to.String() != "r@a.test" {
			t.Error(to)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing is sent")
	}
	if r.settings() != s {
		t.Error("the newest settings are not in force")
	}
	r.Detach(s)
	if r.settings() != old {
		t.Error("the settings before are not in force again")
	}
	r.Detach(old)
	r.Detach(old)
	if r.settings() != nil {
		t.Error("none should be in force")
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	if err := r.Stop(); err != nil {
		t.Errorf("twice: %v", err)
	}
}

// TestCompressed: the report in the message is what Write writes.
func TestCompressed(t *testing.T) {
	s, _ := settings(&dnstest.Zone{})
	a := s.aggregate(Due{Day: day, Policy: policyOf("a.test")}, []report.Record{record("192.0.2.1")})
	m, err := s.Compose(a, mail.Address{Local: "r", Domain: "a.test"})
	if err != nil {
		t.Fatal(err)
	}
	body, _ := m.Body().Bytes()
	_, rest, _ := strings.Cut(string(body), ".xml.gz\"\r\n\r\n")
	enc, _, _ := strings.Cut(rest, "\r\n--")
	z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(enc)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := a.Write(&want); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%v\n%s", err, got)
	}
}

func BenchmarkAdd(b *testing.B) {
	l := openLedger(b, b.TempDir())
	p, r := policyOf("a.test", "r@a.test"), record("192.0.2.1")
	for b.Loop() {
		add(b, l, day, p, r)
	}
}
