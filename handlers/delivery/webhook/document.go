package webhook

import (
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/parts"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// A document is a message in JSON. Its fields are added to, never renamed.
type document struct {
	ID          string       `json:"id"`
	Attempt     int          `json:"attempt"`
	Queued      time.Time    `json:"queued"`
	Size        int64        `json:"size"`
	Envelope    envelope     `json:"envelope"`
	Subject     string       `json:"subject"`
	Header      []field      `json:"header"`
	Text        string       `json:"text"`
	HTML        string       `json:"html"`
	Attachments []attachment `json:"attachments"`
	Defects     []string     `json:"defects,omitempty"`
}

type envelope struct {
	From   string      `json:"from"`
	To     []recipient `json:"to"`
	Client client      `json:"client"`
}

type recipient struct {
	Address string `json:"address"`
	Given   string `json:"given"`
	Tag     string `json:"tag,omitempty"`
}

type client struct {
	IP   string `json:"ip,omitempty"`
	Helo string `json:"helo,omitempty"`
	User string `json:"user,omitempty"`
}

type field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type attachment struct {
	Filename    string `json:"filename,omitempty"`
	ContentType string `json:"content_type"`
	ContentID   string `json:"content_id,omitempty"`
	Inline      bool   `json:"inline,omitempty"`
	Size        int64  `json:"size"`
	Content     []byte `json:"content,omitempty"` // in base64
	Truncated   bool   `json:"truncated,omitempty"`
}

// Bounds of a document beside MaxContent.
const (
	maxParts = 200
	maxDepth = 16
)

// document is the message for some recipients.
func (a *Agent) document(d *queue.Delivery, rcpts []*mail.Recipient) (*document, error) {
	c, err := parts.Read(d.Content, parts.Limits{Parts: maxParts, Depth: maxDepth, Text: a.MaxContent, Content: a.MaxContent})
	if err != nil {
		return nil, err
	}
	e := d.Envelope
	doc := &document{
		ID: d.ID, Attempt: d.Attempt, Queued: d.Queued.UTC().Truncate(time.Second), Size: d.Content.Size(),
		Envelope: envelope{From: e.From.String(), To: []recipient{}, Client: client{e.ClientIP, e.Hello, e.AuthUser}},
		Subject:  parts.Decode(d.Content.Header.Get("Subject")), Header: []field{},
		Text: c.Text, HTML: c.HTML, Attachments: []attachment{}, Defects: c.Defects,
	}
	for _, r := range rcpts {
		doc.Envelope.To = append(doc.Envelope.To, recipient{r.Address.String(), r.Given.String(), r.Detail()})
	}
	for f := range d.Content.Header.Fields() {
		doc.Header = append(doc.Header, field{f.Name(), parts.Decode(f.Value())})
	}
	for _, p := range c.Attachments {
		doc.Attachments = append(doc.Attachments, attachment{p.Filename, p.Type, p.ID, p.Inline, p.Size, p.Data, p.Truncated})
	}
	return doc, nil
}
