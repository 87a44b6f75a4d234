// Package webhook delivers by HTTP requests.
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

func init() { caddy.RegisterModule(new(Agent)) }

// The formats of requests.
const (
	formatRaw  = "raw"
	formatJSON = "json"
)

// Agent delivers a message by a POST to an endpoint, one for at most
// MaxRecipients of its recipients. What became of them the status says:
//
//	2xx            delivered
//	408, 425, 429  tried again later, not before the time of Retry-After
//	5xx            the same
//	3xx, 401, 407  tried again later, and an error in the log: a fault of ours
//	400, 422       failed, 5.6.0
//	403            failed, 5.7.1
//	404, 410       failed, 5.1.1
//	413            failed, 5.3.4
//	other          failed, 5.3.0
//
// An answer of type application/json may have more to say: with "reply", an
// enhanced status code and text such as "5.2.2 mailbox is full" for the sender,
// or of a 2xx with "recipients", an object from addresses to such replies.
//
// Requests have the headers Webhook-Id, Webhook-Timestamp and, with a secret,
// Webhook-Signature as the Standard Webhooks specification has them, and an
// Idempotency-Key that is the same for the same message and recipients, so that an
// endpoint knows what it has had when an answer was lost.
type Agent struct {
	// URL is the endpoint. {env.*} and {file.*} in it are put in when the
	// configuration is loaded. Nothing of a message can change it.
	URL string `json:"url,omitempty"`

	// Format is "raw": the message itself (message/rfc822), and the envelope in
	// headers; or "json": the envelope, the header and the parts, decoded, in JSON.
	// Default: json.
	Format string `json:"format,omitempty"`

	// Secrets sign requests by HMAC-SHA256, each with a signature of its own, so
	// that one can be replaced. One that begins with "whsec_" is in base64. {env.*}
	// and {file.*} in them are put in when the configuration is loaded.
	Secrets []string `json:"secrets,omitempty"`

	// Headers are sent with each request, by their names. {env.*} and {file.*} in
	// their values are put in when the configuration is loaded.
	Headers map[string]string `json:"headers,omitempty"`

	// Status says what HTTP status codes mean, in the place of what is said above:
	// by a code or a class such as 4xx one of delivered, later and failed.
	Status map[string]string `json:"status,omitempty"`

	// MaxRecipients is for a request. Default: 50.
	MaxRecipients int `json:"max_recipients,omitempty"`

	// MaxContent bounds the text, the HTML, and the attachments in JSON, in octets
	// before they are encoded. What goes beyond it is left out, and said to be.
	// Default: 10 MiB.
	MaxContent int64 `json:"max_content,omitempty"`

	// FollowRedirects follows three at most, to the same scheme, host and port, and
	// such only that keep the POST (307, 308). Default: false.
	FollowRedirects bool `json:"follow_redirects,omitempty"`

	// Plaintext lets mail go over the network in clear. Default: false, and
	// http:// to anything but the loopback interface is an error then.
	Plaintext bool `json:"plaintext,omitempty"`

	// CARaw is a Caddy CA pool module: the authorities to trust. Default: those
	// of the app.
	CARaw json.RawMessage `json:"ca,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// TransportRaw is a transport module of Caddy's reverse proxy, such as http,
	// with its options for TLS, client certificates and proxies. It looks names up
	// itself. Default: the resolver and the authorities of the app.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// Timeout is for a request with its answer. Default: 1m.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// MaxRetryAfter bounds what Retry-After may ask for. Default: 1h.
	MaxRetryAfter caddy.Duration `json:"max_retry_after,omitempty"`

	url     *url.URL
	headers http.Header
	secrets [][]byte
	status  map[string]string
	client  *http.Client
}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.webhook", New: func() caddy.Module { return new(Agent) }}
}

// Provision makes the client. Nothing is sent until the first delivery.
func (a *Agent) Provision(ctx caddy.Context) error {
	a.defaults()
	if err := a.fill(); err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	d := upstream.Dialer{Env: env.FromContext(ctx)}
	a.client = d.HTTP(20, time.Duration(a.Timeout))
	a.client.CheckRedirect = a.redirect
	roots, err := caddyopt.LoadPool(ctx, a, "CARaw")
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	if roots != nil {
		a.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	}
	t, err := caddyopt.LoadModule[http.RoundTripper](ctx, a, "TransportRaw")
	if err != nil {
		return fmt.Errorf("webhook: transport: %w", err)
	}
	if t != nil {
		if roots != nil {
			return errors.New("webhook: a transport has authorities of its own")
		}
		a.client.Transport = t
	}
	return nil
}

func (a *Agent) defaults() {
	if a.Format == "" {
		a.Format = formatJSON
	}
	if a.MaxRecipients == 0 {
		a.MaxRecipients = 50
	}
	if a.MaxContent == 0 {
		a.MaxContent = 10 << 20
	}
	if a.Timeout == 0 {
		a.Timeout = caddy.Duration(time.Minute)
	}
	if a.MaxRetryAfter == 0 {
		a.MaxRetryAfter = caddy.Duration(time.Hour)
	}
}

// fill puts placeholders in. Errors do not show what they stand for.
func (a *Agent) fill() error {
	r := caddy.NewReplacer()
	u, err := r.ReplaceOrErr(a.URL, true, true)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	if a.url, err = url.Parse(u); err != nil {
		return errors.New("not the URL of an endpoint")
	}
	a.headers = http.Header{"User-Agent": {"caddy-smtp"}, "Accept": {"application/json"}}
	for name, value := range a.Headers {
		if value, err = r.ReplaceOrErr(value, true, true); err != nil {
			return fmt.Errorf("header '%s': %w", name, err)
		}
		a.headers.Set(name, strings.TrimSpace(value))
	}
	for i, s := range a.Secrets {
		if s, err = r.ReplaceOrErr(s, true, true); err != nil {
			return fmt.Errorf("secret %d: %w", i+1, err)
		}
		key, err := parseSecret(strings.TrimSpace(s))
		if err != nil {
			return fmt.Errorf("secret %d: %w", i+1, err)
		}
		a.secrets = append(a.secrets, key)
	}
	a.status, err = parseStatus(a.Status)
	return err
}

// Validate checks the options.
func (a *Agent) Validate() error {
	u := a.url
	switch {
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil:
		return errors.New("webhook: not the URL of an endpoint")
	case u.Scheme == "http" && !a.Plaintext && !isLoopback(u.Hostname()):
		return errors.New("webhook: mail would go to the endpoint in clear; https://, or plaintext")
	case a.Format != formatRaw && a.Format != formatJSON:
		return fmt.Errorf("webhook: format '%s' is neither %s nor %s", a.Format, formatRaw, formatJSON)
	case a.MaxRecipients < 0, a.MaxContent < 0, a.Timeout < 0, a.MaxRetryAfter < 0:
		return errors.New("webhook: an option is negative")
	}
	return nil
}

func isLoopback(host string) bool {
	ip, _ := netip.ParseAddr(host)
	return ip.IsLoopback() || strings.EqualFold(host, "localhost")
}

// redirect keeps requests where the configuration has sent them.
func (a *Agent) redirect(req *http.Request, via []*http.Request) error {
	if !a.FollowRedirects || len(via) > 3 || req.Method != http.MethodPost || req.URL.Scheme != a.url.Scheme || req.URL.Host != a.url.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

// Cleanup closes connections that are kept.
func (a *Agent) Cleanup() error {
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
	return nil
}

// Deliver makes the requests of a delivery.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	var statuses []queue.Status
	for rest := d.Envelope.Recipients; len(rest) > 0 && ctx.Err() == nil; {
		n := min(len(rest), a.MaxRecipients)
		some, err := a.post(ctx, d, rest[:n])
		if err != nil {
			d.Log.Error("calling a webhook", "endpoint", a.url.Host, "error", err)
		}
		for i, s := range some {
			if s.Action == queue.Delivered {
				d.Took(rest[i])
			}
		}
		statuses = append(statuses, some...)
		rest = rest[n:]
	}
	return statuses
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	webhook <url> {
//		format           raw|json
//		secret           <secrets...>
//		header           <name> <value>
//		status           <code|class> delivered|later|failed
//		max_recipients   <number>
//		max_content      <size>
//		follow_redirects
//		plaintext
//		ca               <provider> ...
//		transport        <module> ...
//		timeout          <duration>
//		max_retry_after  <duration>
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&a.URL) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"format":           caddyopt.String(&a.Format),
		"secret":           caddyopt.Strings(&a.Secrets),
		"header":           pair(&a.Headers),
		"status":           pair(&a.Status),
		"max_recipients":   caddyopt.Int(&a.MaxRecipients, 1),
		"max_content":      caddyopt.Size(&a.MaxContent),
		"follow_redirects": caddyopt.Flag(&a.FollowRedirects),
		"plaintext":        caddyopt.Flag(&a.Plaintext),
		"ca":               caddyopt.Module("tls.ca_pool.source", "provider", &a.CARaw),
		"transport":        caddyopt.Module("http.reverse_proxy.transport", "protocol", &a.TransportRaw),
		"timeout":          caddyopt.Duration(&a.Timeout),
		"max_retry_after":  caddyopt.Duration(&a.MaxRetryAfter),
	})
}

// pair is an option of a name and a value, each name once.
func pair(p *map[string]string) caddyopt.Option {
	return func(d *caddyfile.Dispenser) error {
		option := d.Val()
		var name, value string
		if !d.AllArgs(&name, &value) {
			return d.ArgErr()
		}
		if _, ok := (*p)[name]; ok {
			return d.Errf("%s '%s' is given twice", option, name)
		}
		if *p == nil {
			*p = map[string]string{}
		}
		(*p)[name] = value
		return nil
	}
}

// errGone says that the process could not read what it stored.
var errGone = mail.Refuse(451, "4.3.0", "local error in processing")

var (
	_ queue.Agent           = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.Validator       = (*Agent)(nil)
	_ caddy.CleanerUpper    = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
