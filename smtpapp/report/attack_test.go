package report

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
)

// allocated returns the octets that f allocates, all together.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestBombs: what is refused for its size is refused before it has grown: one
// tag with a million attributes, or a list with a million elements of two
// octets.
func TestBombs(t *testing.T) {
	for name, tc := range map[string]struct {
		read func(io.Reader) error
		text string
	}{
		"attributes": {aggregateError, "<feedback" + strings.Repeat(` a=""`, 1<<20) + "></feedback>"},
		"attributes in latin1": {aggregateError, `<?xml version="1.0" encoding="iso-8859-1"?><feedback` +
			strings.Repeat(` a=""`, 1<<20) + "></feedback>"},
		"long name":      {aggregateError, "<" + strings.Repeat("a", 4<<20) + ">"},
		"long comment":   {aggregateError, "<feedback><!--" + strings.Repeat("a", 4<<20) + "-->"},
		"long text":      {aggregateError, "<feedback>" + strings.Repeat("a", 4<<20)},
		"policies":       {tlsError, `{"report-id":"1","policies":[0` + strings.Repeat(",0", 1<<20) + "]}"},
		"failures":       {tlsError, `{"report-id":"1","policies":[{"failure-details":[0` + strings.Repeat(",0", 1<<20) + "]}]}"},
		"list of hosts":  {tlsError, `{"report-id":"1","policies":[{"policy":{"mx-host":[""` + strings.Repeat(`,""`, 1<<20) + "]}}]}"},
		"policy strings": {tlsError, `{"report-id":"1","policies":[{"policy":{"policy-string":[""` + strings.Repeat(`,""`, 1<<20) + "]}}]}"},
	} {
		var err error
		used := allocated(func() { err = tc.read(strings.NewReader(tc.text)) })
		if !errors.Is(err, ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
		if limit := uint64(32 << 20); used > limit {
			t.Errorf("%s: %d MiB allocated for a text of %d", name, used>>20, len(tc.text)>>20)
		}
	}
}

func aggregateError(r io.Reader) error {
	_, err := ReadAggregate(r)
	return err
}

func tlsError(r io.Reader) error {
	_, err := ReadTLS(r)
	return err
}

// TestNamesAreShort: what is logged with each record or policy of a report has
// no more octets than a domain name may, or a few KiB of report would make
// gigabytes of log.
func TestNamesAreShort(t *testing.T) {
	long := strings.Repeat("ä", 1000)
	a := sample()
	a.Metadata.OrgName, a.Metadata.ReportID = long, long
	p := &a.Policy
	for _, f := range []*string{&p.Domain, &p.Discovery, &p.Policy, &p.Subdomain, &p.Nonexist, &p.ADKIM, &p.ASPF, &p.Percent, &p.Failure, &p.Testing} {
		*f = long
	}
	a, err := ReadAggregate(strings.NewReader(written(t, a)))
	if err != nil {
		t.Fatal(err)
	}
	p = &a.Policy
	for i, s := range []string{
		a.Metadata.OrgName, a.Metadata.ReportID, p.Domain, p.Discovery, p.Policy, p.Subdomain, p.Nonexist, p.ADKIM, p.ASPF, p.Percent, p.Failure, p.Testing,
	} {
		if len(s) > maxName || len(s) < maxName-1 || strings.ToValidUTF8(s, "") != s {
			t.Errorf("%d: %d octets", i, len(s))
		}
	}
	r, err := ReadTLS(strings.NewReader(strings.NewReplacer(`"o"`, `"`+long+`"`, `"report-id":"1"`, `"report-id":"`+long+`"`).Replace(tlsReport)))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.OrgName) > maxName || len(r.ReportID) > maxName {
		t.Errorf("%d and %d octets", len(r.OrgName), len(r.ReportID))
	}
}

// TestRecordsOfAMessage: the limit on records, each of which is a line of the
// log, is that of all reports in a message together.
func TestRecordsOfAMessage(t *testing.T) {
	one := "<feedback><policy_published><domain>a</domain></policy_published>" + strings.Repeat("<record></record>", maxRecords/2) + "</feedback>"
	rs, err := Find(parse(t, attachment("application/zip", zipped(t, one, one, one))))
	if !errors.Is(err, ErrLimit) || len(rs.Aggregates) != 2 {
		t.Errorf("%d reports read, %v", len(rs.Aggregates), err)
	}
}
