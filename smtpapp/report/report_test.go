package report

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// resources returns the files of mailauth's that match.
func resources(t *testing.T, pattern string, least int) []string {
	t.Helper()
	dir := os.Getenv("CADDY_SMTP_VECTORS")
	if dir == "" {
		if os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
			t.Fatal("CADDY_SMTP_VECTORS is not set")
		}
		t.Skip("CADDY_SMTP_VECTORS is not set")
	}
	files, err := filepath.Glob(filepath.Join(dir, "mailauth", "resources", pattern))
	if err != nil || len(files) < least {
		t.Fatal(pattern, err, len(files))
	}
	return files
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// expected reads the JSON that belongs to a file.
func expected(t *testing.T, file string) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal(read(t, strings.TrimSuffix(file, filepath.Ext(file))+".json"), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func parse(t testing.TB, text string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// at is what is at a path of maps and lists, as text, a word in lower case
// without its separators: mailauth writes "TrustedForwarder".
func at(v any, path ...any) string {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return ""
			}
			v = l[p]
		}
	}
	if v == nil {
		return ""
	}
	if f, ok := v.(float64); ok {
		return fmt.Sprintf("%.0f", f)
	}
	return word(fmt.Sprint(v))
}

func word(s string) string {
	s = strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(s, "_", ""), "-", ""))
	if s == "unspecified" {
		return ""
	}
	return s
}

// TestAggregateVectors reads mailauth's aggregate reports, bare ones and those in
// messages, and compares them with its JSON.
func TestAggregateVectors(t *testing.T) {
	files := append(resources(t, "dmarc-feedback/*.xml", 5), resources(t, "dmarc-feedback/*.eml", 5)...)
	for _, file := range files {
		name := filepath.Base(file)
		var a *Aggregate
		if strings.HasSuffix(file, ".xml") {
			var err error
			if a, err = ReadAggregate(bytes.NewReader(read(t, file))); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
		} else {
			rs, err := Find(parse(t, string(read(t, file))))
			if err != nil || len(rs.Aggregates) != 1 || rs.Len() != 1 {
				t.Errorf("%s: %+v, %v", name, rs, err)
				continue
			}
			a = rs.Aggregates[0]
		}
		compareAggregate(t, name, a, expected(t, file))
	}
}

func compareAggregate(t *testing.T, name string, a *Aggregate, want map[string]any) {
	t.Helper()
	check := func(what, got, want string) {
		t.Helper()
		if word(got) != want {
			t.Errorf("%s: %s is %q, want %q", name, what, got, want)
		}
	}
	check("org_name", a.Metadata.OrgName, at(want, "report_metadata", "org_name"))
	check("email", a.Metadata.Email, at(want, "report_metadata", "email"))
	check("extra_contact_info", a.Metadata.ExtraContact, at(want, "report_metadata", "extra_contact_info"))
	check("report_id", a.Metadata.ReportID, at(want, "report_metadata", "report_id"))
	check("begin", fmt.Sprint(a.Metadata.Range.Begin), at(want, "report_metadata", "date_range", "begin"))
	check("end", fmt.Sprint(a.Metadata.Range.End), at(want, "report_metadata", "date_range", "end"))
	check("domain", a.Policy.Domain, at(want, "policy_published", "domain"))
	check("p", a.Policy.Policy, at(want, "policy_published", "p"))
	check("sp", a.Policy.Subdomain, at(want, "policy_published", "sp"))
	check("adkim", map[string]string{"r": "relaxed", "s": "strict"}[a.Policy.ADKIM], at(want, "policy_published", "adkim"))
	check("testing", fmt.Sprint(a.Policy.Testing == "y"), at(want, "policy_published", "testing"))
	check("fo", a.Policy.Failure, at(want, "policy_published", "fo"))
	if records, _ := want["record"].([]any); len(records) != len(a.Records) {
		t.Fatalf("%s: %d records, want %d", name, len(a.Records), len(records))
	}
	for i, r := range a.Records {
		p := []any{"record", i}
		in := func(path ...any) string { return at(want, append(p[:2:2], path...)...) }
		check("source_ip", r.Row.SourceIP, in("row", "source_ip"))
		check("count", fmt.Sprint(r.Row.Count), in("row", "count"))
		check("disposition", r.Row.Evaluated.Disposition, in("row", "policy_evaluated", "disposition"))
		check("dkim", r.Row.Evaluated.DKIM, in("row", "policy_evaluated", "dkim"))
		check("spf", r.Row.Evaluated.SPF, in("row", "policy_evaluated", "spf"))
		for j, e := range r.Row.Evaluated.Reasons {
			check("comment", e.Comment, in("row", "policy_evaluated", "reason", j, "comment"))
			if e.Type != "sampled_out" { // RFC 7489's, which mailauth reads as another
				check("reason", e.Type, in("row", "policy_evaluated", "reason", j, "type_"))
			}
		}
		check("header_from", r.Identifiers.HeaderFrom, in("identifiers", "header_from"))
		check("envelope_from", r.Identifiers.EnvelopeFrom, in("identifiers", "envelope_from"))
		check("envelope_to", r.Identifiers.EnvelopeTo, in("identifiers", "envelope_to"))
		for j, d := range r.Auth.DKIM {
			check("dkim domain", d.Domain, in("auth_results", "dkim", j, "domain"))
			check("dkim selector", d.Selector, in("auth_results", "dkim", j, "selector"))
			check("dkim result", d.Result, in("auth_results", "dkim", j, "result"))
		}
		for j, s := range r.Auth.SPF {
			check("spf domain", s.Domain, in("auth_results", "spf", j, "domain"))
			check("spf result", s.Result, in("auth_results", "spf", j, "result"))
		}
		if in("auth_results", "dkim", len(r.Auth.DKIM), "result")+in("auth_results", "spf", len(r.Auth.SPF), "result") != "" {
			t.Errorf("%s: results are missing in record %d", name, i)
		}
	}
}

// TestTLSVectors reads mailauth's TLS reports.
func TestTLSVectors(t *testing.T) {
	for _, file := range resources(t, "tlsrpt/*.json", 3) {
		want := expected(t, file)
		r, err := ReadTLS(bytes.NewReader(read(t, file)))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		compareTLS(t, file, r, want)
		eml := strings.TrimSuffix(file, ".json") + ".eml"
		if _, err := os.Stat(eml); err != nil {
			continue
		}
		rs, err := Find(parse(t, string(read(t, eml))))
		if err != nil || len(rs.TLS) != 1 || rs.Len() != 1 {
			t.Errorf("%s: %+v, %v", eml, rs, err)
			continue
		}
		compareTLS(t, eml, rs.TLS[0], want)
	}
}

func compareTLS(t *testing.T, name string, r *TLS, want map[string]any) {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	contains(t, name, got, want)
}

// contains reports what is missing of want in got.
func contains(t *testing.T, path string, got, want any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		for k, w := range want {
			contains(t, path+"."+k, g[k], w)
		}
	case []any:
		g, _ := got.([]any)
		if len(g) != len(want) {
			t.Errorf("%s: %d entries, want %d", path, len(g), len(want))
			return
		}
		for i, w := range want {
			contains(t, fmt.Sprintf("%s[%d]", path, i), g[i], w)
		}
	default:
		if want != nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}

// TestFeedbackVectors reads mailauth's feedback reports.
func TestFeedbackVectors(t *testing.T) {
	for _, file := range resources(t, "arf/*.eml", 5) {
		name, want := filepath.Base(file), expected(t, file)
		rs, err := Find(parse(t, string(read(t, file))))
		if err != nil || len(rs.Feedback) != 1 {
			t.Errorf("%s: %+v, %v", name, rs, err)
			continue
		}
		f := rs.Feedback[0]
		for key, got := range map[string]string{
			"feedback_type": f.Type, "user_agent": f.UserAgent, "original_envelope_id": f.EnvelopeID, "source_ip": f.SourceIP,
			"auth_failure": f.AuthFailure, "delivery_result": f.DeliveryResult, "dkim_domain": f.DKIMDomain, "dkim_selector": f.DKIMSelector,
			"dkim_identity": f.DKIMIdentity, "spf_dns": f.SPFDNS, "identity_alignment": f.Alignment,
		} {
			if word(got) != at(want, key) {
				t.Errorf("%s: %s is %q, want %q", name, key, got, at(want, key))
			}
		}
		for key, got := range map[string][]string{"reported_domain": f.ReportedDomains, "reported_uri": f.ReportedURIs} {
			if l, _ := want[key].([]any); len(l) != len(got) {
				t.Errorf("%s: %s has %d entries, want %d", name, key, len(got), len(l))
			}
		}
	}
}

func sample() *Aggregate {
	return &Aggregate{
		Metadata: Metadata{OrgName: "A & B <c>", Email: "r@a.test", ReportID: "1@a.test", Range: DateRange{86400, 172799}, Generator: "x"},
		Policy:   PolicyPublished{Domain: "b.test", Discovery: "treewalk", Policy: "reject", ADKIM: "r", ASPF: "s", Testing: "n", Failure: "0"},
		Records: []Record{{
			Row:         Row{SourceIP: "192.0.2.1", Count: 3, Evaluated: Evaluated{"none", "fail", "pass", []Reason{{"local_policy", "arc=pass"}}}},
			Identifiers: Identifiers{EnvelopeFrom: "c.test", HeaderFrom: "b.test"},
			Auth:        AuthResults{DKIM: []DKIMResult{{Domain: "b.test", Selector: "s", Result: "fail"}}, SPF: []SPFResult{{Domain: "c.test", Scope: "mfrom", Result: "pass"}}},
		}},
	}
}

func written(t testing.TB, a *Aggregate) string {
	t.Helper()
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestWriteAndRead: what is written is what is read.
func TestWriteAndRead(t *testing.T) {
	text := written(t, sample())
	if !strings.Contains(text, `<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">`) || strings.Contains(text, "<c>") {
		t.Error(text)
	}
	got, err := ReadAggregate(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := sample()
	want.Version, want.XMLName = "1.0", got.XMLName
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func gzipped(t testing.TB, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i, s := range files {
		f, err := w.Create(fmt.Sprintf("%d.xml", i))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, s)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// attachment is a message with one part.
func attachment(kind string, content []byte) string {
	enc := base64.StdEncoding.EncodeToString(content)
	var b strings.Builder
	b.WriteString("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\npreamble\n--b\nContent-Type: text/plain\n\n{<?xml\n--b\nContent-Type: " +
		kind + "\nContent-Transfer-Encoding: base64\n\n")
	for len(enc) > 76 {
		b.WriteString(enc[:76] + "\n")
		enc = enc[76:]
	}
	b.WriteString(enc + "\n--b--\n")
	return b.String()
}

const tlsReport = `{"organization-name":"o","date-range":{"start-datetime":"2016-04-01T00:00:00Z","end-datetime":"2016-04-01T23:59:59Z"},` +
	`"report-id":"1","policies":[{"policy":{"policy-type":"sts","policy-domain":"a.test","mx-host":"mx.a.test"},"summary":{"total-successful-session-count":1,"total-failure-session-count":2}}]}`

func TestFind(t *testing.T) {
	xml := written(t, sample())
	for name, tc := range map[string]struct {
		text string
		want string // aggregates, TLS reports, feedback
		err  error
	}{
		"gzip":               {attachment("application/gzip", gzipped(t, xml)), "1 0 0", nil},
		"zip":                {attachment("application/octet-stream", zipped(t, xml)), "1 0 0", nil},
		"two in a zip":       {attachment("application/zip", zipped(t, xml, tlsReport)), "1 1 0", nil},
		"plain":              {attachment("text/xml", []byte(xml)), "1 0 0", nil},
		"with a mark":        {attachment("text/xml", []byte("\xef\xbb\xbf"+xml)), "1 0 0", nil},
		"text with a name":   {attachment(`text/plain; name="r.xml"`, []byte(xml)), "1 0 0", nil},
		"TLS":                {attachment("application/tlsrpt+gzip", gzipped(t, tlsReport)), "0 1 0", nil},
		"TLS, plain":         {attachment("application/tlsrpt+json", []byte(tlsReport)), "0 1 0", nil},
		"alone":              {"Content-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(gzipped(t, xml)) + "\n", "1 0 0", nil},
		"feedback":           {attachment("message/feedback-report", []byte("Feedback-Type: abuse\r\nSource-IP: 192.0.2.1 (x)\r\nOriginal-Mail-From: <a@b.test>\r\n\r\n")), "0 0 1", nil},
		"nothing":            {"Subject: x\n\nHello\n", "0 0 0", nil},
		"a picture":          {attachment("image/png", []byte("\x89PNG\r\n\x1a\n")), "0 0 0", nil},
		"no last boundary":   {strings.TrimSuffix(attachment("application/gzip", gzipped(t, xml)), "--b--\n"), "1 0 0", nil},
		"other JSON":         {attachment("application/json", []byte(`{"a":1}`)), "0 0 0", ErrFormat},
		"other XML":          {attachment("text/xml", []byte(`<?xml version="1.0"?><svg></svg>`)), "0 0 0", ErrFormat},
		"no records":         {attachment("text/xml", []byte("<feedback><policy_published><domain>a</domain></policy_published></feedback>")), "0 0 0", ErrFormat},
		"damaged gzip":       {attachment("application/gzip", gzipped(t, xml)[:40]), "0 0 0", ErrFormat},
		"damaged zip":        {attachment("application/zip", zipped(t, xml)[:40]), "0 0 0", ErrFormat},
		"damaged feedback":   {attachment("message/feedback-report", []byte("x")), "0 0 0", ErrFormat},
		"an entity":          {attachment("text/xml", []byte("<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY b \"c\">]><feedback>&b;</feedback>")), "0 0 0", ErrLimit},
		"gzip bomb":          {attachment("application/gzip", gzipped(t, "<feedback>"+strings.Repeat(" ", maxInflated))), "0 0 0", ErrLimit},
		"zip bomb":           {attachment("application/zip", zipped(t, "<feedback>"+strings.Repeat("<a/>", maxElements+1))), "0 0 0", ErrLimit},
		"deep":               {attachment("text/xml", []byte("<feedback>"+strings.Repeat("<a>", maxDepth+1))), "0 0 0", ErrLimit},
		"many records":       {attachment("application/gzip", gzipped(t, "<feedback>"+strings.Repeat("<record></record>", maxRecords+1))), "0 0 0", ErrLimit},
		"long text":          {attachment("text/xml", []byte("<feedback><version>"+strings.Repeat("1", maxText+1)+"</version>")), "0 0 0", ErrLimit},
		"many attributes":    {attachment("text/xml", []byte("<feedback"+manyAttributes(maxDepth+1)+">")), "0 0 0", ErrLimit},
		"JSON bomb":          {attachment("application/gzip", gzipped(t, "{"+strings.Repeat(" ", maxJSON))), "0 0 0", ErrLimit},
		"many files":         {attachment("application/zip", zipped(t, make([]string, maxReports+1)...)), "0 0 0", ErrLimit},
		"many reports":       {attachment("application/zip", zipped(t, repeated(tlsReport, maxReports)...)) + "", "0 10 0", nil},
		"many parts":         {"Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", maxParts+1) + "--b--\n", "0 0 0", ErrLimit},
		"many levels":        {nested(maxLevels + 2), "0 0 0", ErrLimit},
		"long feedback":      {attachment("message/feedback-report", []byte(strings.Repeat("A: b\r\n", maxFeedback/6+1))), "0 0 0", ErrLimit},
		"negative depth":     {attachment("text/xml", []byte("<feedback></a></feedback>")), "0 0 0", ErrFormat},
		"latin1":             {attachment("text/xml", []byte(strings.Replace(xml, `encoding="UTF-8"`, `encoding="ISO-8859-1"`, 1))), "1 0 0", nil},
		"an unknown charset": {attachment("text/xml", []byte(strings.Replace(xml, `encoding="UTF-8"`, `encoding="x"`, 1))), "0 0 0", ErrFormat},
	} {
		rs, err := Find(parse(t, tc.text))
		if got := fmt.Sprintf("%d %d %d", len(rs.Aggregates), len(rs.TLS), len(rs.Feedback)); got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%s: got %s, %v, want %s, %v", name, got, err, tc.want, tc.err)
		}
	}
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " a%d='b'", i)
	}
	return b.String()
}

func repeated(s string, n int) (out []string) {
	for range n {
		out = append(out, s)
	}
	return out
}

func nested(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	return b.String()
}

func TestTLSLimits(t *testing.T) {
	many := strings.Replace(tlsReport, `"policies":[`, `"policies":[`+strings.Repeat("{},", maxPolicies), 1)
	if _, err := ReadTLS(strings.NewReader(many)); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	if _, err := ReadTLS(strings.NewReader("[]")); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	r, err := ReadTLS(strings.NewReader(tlsReport))
	if err != nil || len(r.Policies[0].Policy.MXHost) != 1 {
		t.Errorf("a single mx-host: %+v, %v", r, err)
	}
}

func FuzzAggregate(f *testing.F) {
	f.Add(written(f, sample()))
	f.Add(`<?xml version="1.0" encoding="iso-8859-1"?><feedback><record><row><count>x</count></row></record></feedback>`)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ReadAggregate(strings.NewReader(s))
		if err != nil {
			return
		}
		if _, err := ReadAggregate(strings.NewReader(written(t, a))); err != nil {
			t.Errorf("%q is read, and not as it is written: %v", s, err)
		}
	})
}

func FuzzTLS(f *testing.F) {
	f.Add(tlsReport)
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ReadTLS(strings.NewReader(s)); err == nil {
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzFind(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(attachment("application/gzip", gzipped(f, written(f, sample()))), "\n", "\r\n")))
	f.Add([]byte(strings.ReplaceAll(attachment("application/zip", zipped(f, tlsReport)), "\n", "\r\n")))
	f.Add([]byte("Content-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := message.Parse(b)
		if err != nil {
			return
		}
		if rs, err := Find(m); rs == nil {
			t.Error(err)
		}
	})
}

func FuzzFeedback(f *testing.F) {
	f.Add("Feedback-Type: abuse\nUser-Agent: x/1\nVersion: 1\nOriginal-Rcpt-To: <a@b.test>\nSource-IP: 192.0.2.1\nArrival-Date: Thu, 26 Nov 2026 00:00:00 +0000\n")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ReadFeedback(strings.NewReader(s)); err == nil {
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		}
	})
}
