// Package report reads the reports that others send about mail: DMARC aggregate
// reports (RFC 9990, RFC 7489), TLS reports (RFC 8460) and feedback reports (RFC
// 5965). It writes DMARC aggregate reports too. What it reads comes from
// strangers: sizes, numbers and depths are bounded before anything grows. It
// knows nothing of sessions.
package report

import (
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Namespace is that of aggregate reports (RFC 9990, IANA Considerations).
const Namespace = "urn:ietf:params:xml:ns:dmarc-2.0"

// An Aggregate is a DMARC aggregate report. The comments on its parts are in RFC
// 9990, section 3.1.1.
type Aggregate struct {
	XMLName  xml.Name        `xml:"feedback" json:"-"`
	XMLNS    string          `xml:"xmlns,attr,omitempty" json:"-"`
	Version  string          `xml:"version,omitempty" json:"version,omitempty"`
	Metadata Metadata        `xml:"report_metadata" json:"report_metadata"`
	Policy   PolicyPublished `xml:"policy_published" json:"policy_published"`
	Records  []Record        `xml:"record" json:"records"`
}

// Metadata say who reports, and on what time.
type Metadata struct {
	OrgName      string    `xml:"org_name" json:"org_name"`
	Email        string    `xml:"email" json:"email,omitempty"`
	ExtraContact string    `xml:"extra_contact_info,omitempty" json:"extra_contact_info,omitempty"`
	ReportID     string    `xml:"report_id" json:"report_id"`
	Range        DateRange `xml:"date_range" json:"date_range"`
	Errors       []string  `xml:"error,omitempty" json:"errors,omitempty"`
	Generator    string    `xml:"generator,omitempty" json:"generator,omitempty"`
}

// A DateRange is in seconds since 1970, UTC.
type DateRange struct {
	Begin int64 `xml:"begin" json:"begin"`
	End   int64 `xml:"end" json:"end"`
}

// PolicyPublished is the policy that the reporter found.
type PolicyPublished struct {
	Domain    string `xml:"domain" json:"domain"`
	Discovery string `xml:"discovery_method,omitempty" json:"discovery_method,omitempty"`
	Policy    string `xml:"p" json:"p"`
	Subdomain string `xml:"sp,omitempty" json:"sp,omitempty"`
	Nonexist  string `xml:"np,omitempty" json:"np,omitempty"`
	ADKIM     string `xml:"adkim,omitempty" json:"adkim,omitempty"`
	ASPF      string `xml:"aspf,omitempty" json:"aspf,omitempty"`
	Percent   string `xml:"pct,omitempty" json:"pct,omitempty"` // RFC 7489
	Failure   string `xml:"fo,omitempty" json:"fo,omitempty"`
	Testing   string `xml:"testing,omitempty" json:"testing,omitempty"`
}

// A Record is messages that had everything in common.
type Record struct {
	Row         Row         `xml:"row" json:"row"`
	Identifiers Identifiers `xml:"identifiers" json:"identifiers"`
	Auth        AuthResults `xml:"auth_results" json:"auth_results"`
}

// A Row says where they came from, and what became of them.
type Row struct {
	SourceIP  string    `xml:"source_ip" json:"source_ip"`
	Count     int64     `xml:"count" json:"count"`
	Evaluated Evaluated `xml:"policy_evaluated" json:"policy_evaluated"`
}

// Evaluated is the result of DMARC.
type Evaluated struct {
	Disposition string   `xml:"disposition" json:"disposition"`
	DKIM        string   `xml:"dkim" json:"dkim"`
	SPF         string   `xml:"spf" json:"spf"`
	Reasons     []Reason `xml:"reason,omitempty" json:"reasons,omitempty"`
}

// A Reason is why another policy was applied than was published.
type Reason struct {
	Type    string `xml:"type" json:"type"`
	Comment string `xml:"comment,omitempty" json:"comment,omitempty"`
}

// Identifiers are what was looked at.
type Identifiers struct {
	EnvelopeTo   string `xml:"envelope_to,omitempty" json:"envelope_to,omitempty"`
	EnvelopeFrom string `xml:"envelope_from,omitempty" json:"envelope_from,omitempty"`
	HeaderFrom   string `xml:"header_from" json:"header_from"`
}

// AuthResults are the results of DKIM and SPF as such.
type AuthResults struct {
	DKIM []DKIMResult `xml:"dkim,omitempty" json:"dkim,omitempty"`
	SPF  []SPFResult  `xml:"spf,omitempty" json:"spf,omitempty"`
}

// A DKIMResult is that of a signature.
type DKIMResult struct {
	Domain   string `xml:"domain" json:"domain"`
	Selector string `xml:"selector" json:"selector,omitempty"`
	Result   string `xml:"result" json:"result"`
	Human    string `xml:"human_result,omitempty" json:"human_result,omitempty"`
}

// An SPFResult is that of an identity.
type SPFResult struct {
	Domain string `xml:"domain" json:"domain"`
	Scope  string `xml:"scope,omitempty" json:"scope,omitempty"`
	Result string `xml:"result" json:"result"`
	Human  string `xml:"human_result,omitempty" json:"human_result,omitempty"`
}

// Write writes the report as XML.
func (a *Aggregate) Write(w io.Writer) error {
	a.XMLName, a.XMLNS, a.Version = xml.Name{Local: "feedback"}, Namespace, "1.0"
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(a); err != nil {
		return err
	}
	return e.Close()
}

// Errors of a report that is not read.
var (
	ErrFormat = errors.New("not a report")
	ErrLimit  = errors.New("the report exceeds a limit")
)

// Limits of XML.
const (
	maxElements = 3 << 19 // of some 30 a record
	maxDepth    = 16
	maxRecords  = 50_000
	maxText     = 4 << 10
	maxToken    = 64 << 10 // octets of one tag or comment
	maxName     = 255      // octets of what is kept of a name
)

// ReadAggregate reads an aggregate report in XML.
func ReadAggregate(r io.Reader) (*Aggregate, error) {
	in := &throttle{r: bufio.NewReader(r)}
	d := xml.NewDecoder(in)
	d.CharsetReader = charset
	a := new(Aggregate)
	if err := xml.NewTokenDecoder(&bounded{d: d, in: in}).Decode(a); err != nil {
		if errors.Is(err, ErrLimit) {
			return nil, ErrLimit
		}
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if a.XMLName.Local != "feedback" || a.Policy.Domain == "" || len(a.Records) == 0 {
		return nil, fmt.Errorf("%w: not an aggregate report", ErrFormat)
	}
	a.XMLNS = ""
	a.normalise()
	return a, nil
}

// normalise has keywords in lower case and nothing around them.
func (a *Aggregate) normalise() {
	p := &a.Policy
	keywords(&p.Domain, &p.Discovery, &p.Policy, &p.Subdomain, &p.Nonexist, &p.ADKIM, &p.ASPF, &p.Testing)
	names(&a.Metadata.OrgName, &a.Metadata.ReportID, &p.Domain, &p.Discovery, &p.Policy, &p.Subdomain, &p.Nonexist)
	names(&p.ADKIM, &p.ASPF, &p.Percent, &p.Failure, &p.Testing)
	for i := range a.Records {
		r := &a.Records[i]
		keywords(&r.Row.SourceIP, &r.Row.Evaluated.Disposition, &r.Row.Evaluated.DKIM, &r.Row.Evaluated.SPF)
		keywords(&r.Identifiers.HeaderFrom, &r.Identifiers.EnvelopeFrom, &r.Identifiers.EnvelopeTo)
		for j := range r.Row.Evaluated.Reasons {
			keywords(&r.Row.Evaluated.Reasons[j].Type)
		}
		for j := range r.Auth.DKIM {
			keywords(&r.Auth.DKIM[j].Domain, &r.Auth.DKIM[j].Result)
		}
		for j := range r.Auth.SPF {
			keywords(&r.Auth.SPF[j].Domain, &r.Auth.SPF[j].Scope, &r.Auth.SPF[j].Result)
		}
	}
}

func keywords(ps ...*string) {
	for _, p := range ps {
		*p = strings.ToLower(strings.TrimSpace(*p))
	}
}

// names cuts what goes with each line of a log: no name is longer, and what a
// stranger writes once must not be there thousands of times.
func names(ps ...*string) {
	for _, p := range ps {
		if len(*p) > maxName {
			*p = strings.ToValidUTF8((*p)[:maxName], "")
		}
	}
}

// bounded gives up on XML that is too deep, too long, or has a document type:
// entities are what bombs are made of.
type bounded struct {
	d                        *xml.Decoder
	in                       *throttle
	elements, depth, records int
}

// Token returns the next token.
func (b *bounded) Token() (xml.Token, error) {
	b.in.left = maxToken
	t, err := b.d.Token()
	if err != nil {
		return t, err
	}
	switch t := t.(type) {
	case xml.StartElement:
		b.elements++
		b.depth++
		if t.Name.Local == "record" {
			b.records++
		}
		if b.elements > maxElements || b.depth > maxDepth || b.records > maxRecords || len(t.Attr) > maxDepth {
			return nil, ErrLimit
		}
	case xml.EndElement:
		b.depth--
	case xml.CharData:
		if len(t) > maxText {
			return nil, ErrLimit
		}
	case xml.Directive:
		return nil, fmt.Errorf("%w: it has a document type", ErrLimit)
	}
	return t, nil
}

// throttle gives up in the middle of a token that is too long, which the decoder
// would have in memory as a whole before anybody can count its attributes.
type throttle struct {
	r    *bufio.Reader
	left int // octets of this token
}

// ReadByte reads one octet.
func (t *throttle) ReadByte() (byte, error) {
	if t.left--; t.left < 0 {
		return 0, ErrLimit
	}
	return t.r.ReadByte()
}

// Read reads some.
func (t *throttle) Read(p []byte) (int, error) {
	if t.left <= 0 {
		return 0, ErrLimit
	}
	n, err := t.r.Read(p[:min(len(p), t.left)])
	t.left -= n
	return n, err
}

// charset reads the few encodings that occur.
func charset(name string, r io.Reader) (io.Reader, error) {
	switch strings.ToLower(name) {
	case "utf-8", "utf8", "us-ascii", "ascii":
		return r, nil
	case "iso-8859-1", "windows-1252", "iso-8859-15":
		return &latin1{r: r}, nil
	}
	return nil, fmt.Errorf("unknown charset %.20q", name)
}

// latin1 reads ISO 8859-1 as UTF-8.
type latin1 struct {
	r    io.Reader
	rest []byte
}

func (l *latin1) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		var buf [1 << 10]byte
		n, err := l.r.Read(buf[:])
		if n == 0 {
			return 0, err
		}
		for _, c := range buf[:n] {
			l.rest = append(l.rest, string(rune(c))...)
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}
