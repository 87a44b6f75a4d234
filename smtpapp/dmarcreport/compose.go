package dmarcreport

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
)

// Compose writes the message that carries a report (RFC 9990, section 3.5.2).
func (s *Settings) Compose(a *report.Aggregate, to mail.Address) (*message.Message, error) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if err := a.Write(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	id, _, _ := strings.Cut(a.Metadata.ReportID, "@")
	file := fmt.Sprintf("%s!%s!%d!%d!%s.xml.gz", s.Hostname, a.Policy.Domain, a.Metadata.Range.Begin, a.Metadata.Range.End, id)
	boundary := "=_" + id

	h := new(message.Header)
	h.Append("From", s.From.String())
	h.Append("To", to.String())
	h.Append("Subject", fmt.Sprintf("Report Domain: %s Submitter: %s Report-ID: <%s>", a.Policy.Domain, s.Hostname, a.Metadata.ReportID))
	h.Append("Date", time.Now().UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	h.Append("Message-ID", "<"+a.Metadata.ReportID+">")
	h.Append("Auto-Submitted", "auto-generated")
	h.Append("MIME-Version", "1.0")
	h.Append("Content-Type", fmt.Sprintf(`multipart/mixed; boundary="%s"`, boundary))

	var b strings.Builder
	day := time.Unix(a.Metadata.Range.Begin, 0).UTC().Format(time.DateOnly)
	fmt.Fprintf(&b, "--%s\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"+
		"This is a DMARC aggregate report on mail from %s,\r\nreceived by %s on %s (UTC).\r\n", boundary, a.Policy.Domain, s.Hostname, day)
	fmt.Fprintf(&b, "--%s\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n"+
		"Content-Disposition: attachment;\r\n filename=\"%s\"\r\n\r\n", boundary, file)
	const line = 57 // octets that make 76 of base64
	for rest := zipped.Bytes(); len(rest) > 0; {
		n := min(line, len(rest))
		b.WriteString(base64.StdEncoding.EncodeToString(rest[:n]) + "\r\n")
		rest = rest[n:]
	}
	fmt.Fprintf(&b, "--%s--\r\n", boundary)
	return message.New(h, message.NewBody([]byte(b.String()))), nil
}
