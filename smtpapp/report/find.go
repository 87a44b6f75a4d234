package report

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Reports are what a message has.
type Reports struct {
	Aggregates []*Aggregate
	TLS        []*TLS
	Feedback   []*Feedback
}

// Len returns how many there are.
func (r *Reports) Len() int { return len(r.Aggregates) + len(r.TLS) + len(r.Feedback) }

// Limits of what is read of one message, in octets unless they say otherwise.
const (
	maxParts    = 50
	maxLevels   = 5
	maxZip      = 16 << 20
	maxInflated = 32 << 20 // of all parts
	maxReports  = 10       // in number
)

// Find returns the reports in a message. An error is of the first part that
// looked like one and could not be read; what was read before it is returned
// too.
func Find(m *message.Message) (*Reports, error) {
	r, err := m.Body().NewReader()
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // it was only read
	f := &finder{reports: new(Reports), inflated: maxInflated}
	h := textproto.MIMEHeader{}
	for _, name := range []string{"Content-Type", "Content-Transfer-Encoding", "Content-Disposition"} {
		h.Set(name, m.Header.Get(name))
	}
	return f.reports, f.part(h, r, 0)
}

type finder struct {
	reports  *Reports
	parts    int
	inflated int64 // what is left
	records  int   // of DMARC reports, all together
}

// part reads one part of a message, and those in it.
func (f *finder) part(h textproto.MIMEHeader, r io.Reader, level int) error {
	if f.parts++; f.parts > maxParts || level > maxLevels {
		return fmt.Errorf("%w: parts", ErrLimit)
	}
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && kind == "" {
		kind = "text/plain"
	}
	if strings.HasPrefix(kind, "multipart/") && params["boundary"] != "" {
		return f.multipart(multipart.NewReader(r, params["boundary"]), level)
	}
	switch kind {
	case "text/plain", "text/html", "message/rfc822", "text/rfc822-headers":
		if !attached(h, params) {
			return nil // somebody's words
		}
	case "message/feedback-report":
		fb, err := ReadFeedback(decoded(h, r))
		if err == nil {
			f.reports.Feedback = append(f.reports.Feedback, fb)
		}
		return err
	}
	return f.content(bufio.NewReader(decoded(h, r)))
}

func (f *finder) multipart(mr *multipart.Reader, level int) error {
	for {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if f.reports.Len() > 0 {
				return nil // a last boundary that is missing
			}
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if err := f.part(p.Header, p, level+1); err != nil {
			return err
		}
	}
}

// attached reports whether a part of text is a file that may be a report.
func attached(h textproto.MIMEHeader, params map[string]string) bool {
	_, d, _ := mime.ParseMediaType(h.Get("Content-Disposition"))
	name := strings.ToLower(d["filename"] + params["name"])
	return strings.HasSuffix(name, ".xml") || strings.HasSuffix(name, ".json")
}

// decoded undoes the transfer encoding (RFC 2045, section 6).
func decoded(h textproto.MIMEHeader, r io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(h.Get("Content-Transfer-Encoding"))) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}

// content reads what is a report by its first octets; the media types that are
// used differ. What is none is passed over.
func (f *finder) content(r *bufio.Reader) error {
	head, _ := r.Peek(512)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return f.text(bufio.NewReader(f.bound(z)))
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return f.zip(r)
	}
	return f.text(bufio.NewReader(f.bound(r)))
}

// zip reads the files of an archive. Its directory is at its end, so all of it
// has to be in memory.
func (f *finder) zip(r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, maxZip+1))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(b) > maxZip {
		return fmt.Errorf("%w: archive", ErrLimit)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	for i, file := range z.File {
		if i == maxReports {
			return fmt.Errorf("%w: files in an archive", ErrLimit)
		}
		r, err := file.Open()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		err = f.text(bufio.NewReader(f.bound(r)))
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// text reads XML or JSON.
func (f *finder) text(r *bufio.Reader) error {
	if f.reports.Len() >= maxReports {
		return fmt.Errorf("%w: reports in a message", ErrLimit)
	}
	head, err := r.Peek(512)
	switch {
	case errors.Is(err, ErrLimit):
		return ErrLimit
	case err != nil && err != io.EOF:
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	switch {
	case bytes.HasPrefix(head, []byte("<?xml")) || bytes.HasPrefix(head, []byte("<feedback")) || bytes.HasPrefix(head, []byte("<!")):
		if bom, _ := r.Peek(3); string(bom) == "\xef\xbb\xbf" {
			_, _ = r.Discard(3)
		}
		a, err := ReadAggregate(r)
		if err == nil {
			if f.records += len(a.Records); f.records > maxRecords {
				return fmt.Errorf("%w: records in a message", ErrLimit)
			}
			f.reports.Aggregates = append(f.reports.Aggregates, a)
		}
		return err
	case bytes.HasPrefix(head, []byte("{")):
		t, err := ReadTLS(r)
		if err == nil {
			f.reports.TLS = append(f.reports.TLS, t)
		}
		return err
	}
	return nil
}

// bound returns a reader that fails when more is inflated than a message may
// have.
func (f *finder) bound(r io.Reader) io.Reader { return &meter{r, &f.inflated} }

type meter struct {
	r    io.Reader
	left *int64
}

func (m *meter) Read(p []byte) (int, error) {
	if *m.left <= 0 {
		return 0, ErrLimit
	}
	n, err := m.r.Read(p[:min(int64(len(p)), *m.left)])
	*m.left -= int64(n)
	return n, err
}
