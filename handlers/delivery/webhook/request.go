package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// parseSecret returns the key of a secret (Standard Webhooks, "Signature scheme").
func parseSecret(s string) ([]byte, error) {
	if text, ok := strings.CutPrefix(s, "whsec_"); ok {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, errors.New("not in base64 behind whsec_")
		}
		s = string(key)
	}
	if len(s) < 16 {
		return nil, errors.New("shorter than 16 octets")
	}
	return []byte(s), nil
}

// idempotencyKey is the same for the same message and recipients.
func idempotencyKey(id string, rcpts []*mail.Recipient) string {
	to := make([]string, len(rcpts))
	for i, r := range rcpts {
		to[i] = r.Address.String()
	}
	slices.Sort(to)
	sum := sha256.Sum256([]byte(id + "\x00" + strings.Join(to, "\x00")))
	return fmt.Sprintf("msg_%x", sum[:16])
}

// A payload is the body of a request, to be read as often as anyone likes.
type payload struct {
	size int64
	open func() (io.ReadCloser, error)
	kind string // its Content-Type
}

// payload makes the body for some recipients. It can be read to its end: that
// stored content is damaged shows there, and an endpoint had it all by then.
func (a *Agent) payload(d *queue.Delivery, rcpts []*mail.Recipient) (*payload, error) {
	if a.Format == formatRaw {
		if r, err := d.Content.Body().NewReader(); err != nil {
			return nil, err
		} else if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, errors.Join(err, r.Close())
		} else if err := r.Close(); err != nil {
			return nil, err
		}
		return &payload{d.Content.Size(), d.Content.NewReader, "message/rfc822"}, nil
	}
	doc, err := a.document(d, rcpts)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	return &payload{int64(len(b)), open, "application/json"}, nil
}

// sign returns the value of Webhook-Signature.
func (a *Agent) sign(id, timestamp string, p *payload) (string, error) {
	var signatures []string
	for _, key := range a.secrets {
		h := hmac.New(sha256.New, key)
		_, _ = io.WriteString(h, id+"."+timestamp+".")
		r, err := p.open()
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, r)
		_ = r.Close()
		if err != nil {
			return "", err
		}
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	return strings.Join(signatures, " "), nil
}

// newRequest makes the request for some recipients.
func (a *Agent) newRequest(ctx context.Context, d *queue.Delivery, rcpts []*mail.Recipient) (*http.Request, *watched, error) {
	p, err := a.payload(d, rcpts)
	if err != nil {
		return nil, nil, err
	}
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer()) // Caddy's transports want one
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url.String(), nil)
	if err != nil {
		return nil, nil, errors.New("not the URL of an endpoint")
	}
	w := &watched{}
	req.ContentLength = p.size
	req.GetBody = func() (io.ReadCloser, error) { return w.open(p) }
	if req.Body, err = req.GetBody(); err != nil {
		return nil, nil, err
	}
	h := a.headers.Clone()
	id, timestamp := idempotencyKey(d.ID, rcpts), strconv.FormatInt(time.Now().Unix(), 10)
	h.Set("Content-Type", p.kind)
	h.Set("Idempotency-Key", id)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", timestamp)
	if len(a.secrets) > 0 {
		signature, err := a.sign(id, timestamp, p)
		if err != nil {
			_ = req.Body.Close()
			return nil, nil, err
		}
		h.Set("Webhook-Signature", signature)
	}
	if a.Format == formatRaw {
		describe(h, d, rcpts)
	}
	if host := h.Get("Host"); host != "" {
		req.Host = host
		h.Del("Host")
	}
	req.Header = h
	return req, w, nil
}

// describe puts the envelope into headers.
func describe(h http.Header, d *queue.Delivery, rcpts []*mail.Recipient) {
	to := make([]string, len(rcpts))
	for i, r := range rcpts {
		to[i] = r.Address.Path()
	}
	for name, value := range map[string]string{
		"Envelope-From": d.Envelope.From.Path(), "Envelope-To": strings.Join(to, ", "), "Queue-Id": d.ID, "Delivery-Attempt": strconv.Itoa(d.Attempt),
		"Client-Address": d.Envelope.ClientIP, "Client-Helo": d.Envelope.Hello, "Client-User": d.Envelope.AuthUser,
	} {
		if value != "" {
			h.Set("X-"+name, strings.Map(printable, value))
		}
	}
}

func printable(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// watched is whether a body could be read.
type watched struct{ failed atomic.Bool }

func (w *watched) open(p *payload) (io.ReadCloser, error) {
	r, err := p.open()
	if err != nil {
		w.failed.Store(true)
		return nil, err
	}
	return &watchedBody{r, w}, nil
}

type watchedBody struct {
	io.ReadCloser
	w *watched
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.w.failed.Store(true)
	}
	return n, err
}

// post makes one request. The error is for the log.
func (a *Agent) post(ctx context.Context, d *queue.Delivery, rcpts []*mail.Recipient) ([]queue.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.Timeout))
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(i httptrace.WroteRequestInfo) { sent.Store(i.Err == nil) }})
	req, body, err := a.newRequest(ctx, d, rcpts)
	if err != nil {
		return same(queue.Status{Reply: errGone}, len(rcpts)), err
	}
	resp, err := a.client.Do(req)
	if err == nil {
		defer resp.Body.Close()
	}
	switch {
	case body.failed.Load(): // whatever was said of the rest
		return same(queue.Status{Reply: errGone}, len(rcpts)), errors.New("the message cannot be read")
	case err != nil:
		s := queue.Status{Reply: mail.Refuse(451, "4.4.1", "no answer from the endpoint"), Unreachable: !sent.Load(), InDoubt: sent.Load()}
		return same(s, len(rcpts)), withoutURL(err)
	}
	return a.judge(resp, rcpts)
}

func same(s queue.Status, n int) []queue.Status { return slices.Repeat([]queue.Status{s}, n) }
