package dsn

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	smtpmail "github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Bounds of what Parse looks at.
const (
	maxParts  = 20
	maxStatus = 1 << 20 // octets of the delivery-status part
)

// ErrNotDSN says that a message is no notification that Parse can read.
var ErrNotDSN = errors.New("not a delivery status notification")

// A Status is what a notification says (RFC 3464). Its texts come from outside
// and are not cleaned.
type Status struct {
	ReportingMTA string // without its type
	EnvelopeID   string
	Arrived      time.Time // zero if it does not say so, or not well
	Recipients   []RecipientStatus
}

// A RecipientStatus is what a notification says of one recipient.
type RecipientStatus struct {
	Original    string // "type;address", "" if it does not say so
	Final       string // "type;address"
	Action      Action
	Status      string // as it came, even if malformed
	RemoteMTA   string // without its type
	Diagnostic  string // "type;text"
	LastAttempt time.Time
	WillRetry   time.Time
}

// Address returns the recipient that the sender named, as far as the
// notification tells.
func (r *RecipientStatus) Address() (smtpmail.Address, error) {
	s := r.Original
	if s == "" {
		s = r.Final
	}
	typ, addr, _ := strings.Cut(s, ";")
	addr = strings.TrimSpace(addr)
	if strings.EqualFold(strings.TrimSpace(typ), "utf-8") {
		addr = fromUnitext(addr)
	}
	return smtpmail.ParseAddress(addr)
}

// Parse reads a notification. It reads the body as a stream and looks at its
// first parts only.
func Parse(m *message.Message) (*Status, error) {
	typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" || params["boundary"] == "" {
		return nil, ErrNotDSN
	}
	body, err := m.Body().NewReader()
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	parts := multipart.NewReader(body, params["boundary"])
	for range maxParts {
		p, err := parts.NextPart()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotDSN, err)
		}
		switch typ, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type")); typ {
		case "message/delivery-status", "message/global-delivery-status":
			return parseStatus(p)
		}
	}
	return nil, ErrNotDSN
}

func parseStatus(p *multipart.Part) (*Status, error) {
	var r io.Reader = p
	if strings.EqualFold(p.Header.Get("Content-Transfer-Encoding"), "base64") {
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotDSN, err)
	}
	groups := splitGroups(b)
	if len(groups) < 2 {
		return nil, ErrNotDSN
	}
	s := &Status{
		ReportingMTA: untyped(groups[0].Get("Reporting-MTA")),
		EnvelopeID:   groups[0].Get("Original-Envelope-Id"),
		Arrived:      parseDate(groups[0].Get("Arrival-Date")),
	}
	for _, g := range groups[1:] {
		if r, ok := parseRecipient(g); ok {
			s.Recipients = append(s.Recipients, r)
		}
	}
	if len(s.Recipients) == 0 {
		return nil, ErrNotDSN
	}
	return s, nil
}

// splitGroups splits the part at its empty lines, of which some write more than
// one. What is no field is left out.
func splitGroups(b []byte) []*message.Header {
	b = bytes.ReplaceAll(b, []byte{'\r'}, nil)
	b = bytes.ReplaceAll(b, []byte{'\n'}, []byte("\r\n"))
	var groups []*message.Header
	for len(b) > 0 {
		h, rest, err := message.ParseHeader(b)
		if err != nil {
			return groups
		}
		if h.Len() > 0 {
			groups = append(groups, h)
		} else if len(rest) == len(b) { // neither a field nor an empty line
			_, rest, _ = bytes.Cut(b, []byte{'\n'})
		}
		b = rest
	}
	return groups
}

// parseRecipient reads a group. One that lacks what it must have, or has an
// action unknown to RFC 3464, tells nothing.
func parseRecipient(g *message.Header) (r RecipientStatus, ok bool) {
	r = RecipientStatus{
		Original:    g.Get("Original-Recipient"),
		Final:       g.Get("Final-Recipient"),
		Status:      firstWord(g.Get("Status")),
		RemoteMTA:   untyped(g.Get("Remote-MTA")),
		Diagnostic:  g.Get("Diagnostic-Code"),
		LastAttempt: parseDate(g.Get("Last-Attempt-Date")),
		WillRetry:   parseDate(g.Get("Will-Retry-Until")),
	}
	word := firstWord(g.Get("Action"))
	for r.Action = range actions {
		if strings.EqualFold(word, r.Action.String()) {
			return r, r.Final != ""
		}
	}
	return r, false
}

// firstWord leaves out the comment that may follow (RFC 3464, section 2.1.2).
func firstWord(s string) string {
	if i := strings.IndexAny(s, " \t("); i >= 0 {
		s = s[:i]
	}
	return s
}

func untyped(s string) string {
	_, v, _ := strings.Cut(s, ";")
	return strings.TrimSpace(v)
}

func parseDate(s string) time.Time {
	t, err := mail.ParseDate(s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// fromUnitext reads the escapes of RFC 6533, section 3.
func fromUnitext(s string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		hex, after, _ := strings.Cut(rest, "}")
		n, err := strconv.ParseUint(hex, 16, 32)
		if err != nil || !utf8.ValidRune(rune(n)) {
			return s // ParseAddress refuses it
		}
		b.WriteRune(rune(n))
		s = after
	}
}
