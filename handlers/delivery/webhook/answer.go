package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

// What a status can mean.
const (
	meansDelivered = "delivered"
	meansLater     = "later"
	meansFailed    = "failed"
)

var statusPattern = regexp.MustCompile(`^[1-5](\d\d|xx)$`)

// parseStatus checks what the configuration says of status codes.
func parseStatus(given map[string]string) (map[string]string, error) {
	for code, means := range given {
		if !statusPattern.MatchString(code) {
			return nil, fmt.Errorf("status '%s' is neither a code nor a class such as 4xx", code)
		}
		if !slices.Contains([]string{meansDelivered, meansLater, meansFailed}, means) {
			return nil, fmt.Errorf("status %s: '%s' is none of %s, %s and %s", code, means, meansDelivered, meansLater, meansFailed)
		}
	}
	return given, nil
}

// means is what a status means.
func (a *Agent) means(code int) string {
	text := strconv.Itoa(code)
	for _, key := range []string{text, text[:1] + "xx"} {
		if m, ok := a.status[key]; ok {
			return m
		}
	}
	switch {
	case code/100 == 2:
		return meansDelivered
	case code/100 != 4:
		return meansLater
	}
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return meansLater
	}
	return meansFailed
}

// enhanced are the enhanced status codes of failures (RFC 3463).
var enhanced = map[int]string{
	http.StatusBadRequest: "5.6.0", http.StatusUnprocessableEntity: "5.6.0", http.StatusForbidden: "5.7.1",
	http.StatusNotFound: "5.1.1", http.StatusGone: "5.1.1", http.StatusRequestEntityTooLarge: "5.3.4",
}

// ours are statuses that blame the configuration, or what is between.
func ours(code int) bool {
	return code < 400 || code == http.StatusUnauthorized || code == http.StatusProxyAuthRequired
}

// maxAnswer is how many octets of an answer are read.
const maxAnswer = 64 << 10

// An answer is what an endpoint may say beyond its status.
type answer struct {
	Reply      string            `json:"reply"`
	Recipients map[string]string `json:"recipients"`
}

// judge is what a response comes to. The error is for the log.
func (a *Agent) judge(resp *http.Response, rcpts []*mail.Recipient) ([]queue.Status, error) {
	more := readAnswer(resp)
	means := a.means(resp.StatusCode)
	all := queue.Status{RemoteMTA: a.url.Hostname()}
	var err error
	switch means {
	case meansDelivered:
		all.Action, all.Reply = queue.Delivered, &mail.Reply{Code: 250, Enh: "2.0.0", Text: "delivered"}
	case meansLater:
		all.Reply = mail.Refuse(451, "4.3.0", "the endpoint answers %d", resp.StatusCode)
		all.NotBefore = a.notBefore(resp.Header.Get("Retry-After"))
		if ours(resp.StatusCode) {
			err = fmt.Errorf("the endpoint answers %d", resp.StatusCode)
		}
	default:
		enh := enhanced[resp.StatusCode]
		if enh == "" {
			enh = "5.3.0"
		}
		all.Action, all.Reply = queue.Failed, mail.Refuse(codeOf(enh), enh, "the endpoint answers %d", resp.StatusCode)
	}
	if r := parseReply(more.Reply); r != nil && r.Code/100 == all.Reply.Code/100 {
		all.Reply = r
	}
	statuses := same(all, len(rcpts))
	if means != meansDelivered {
		return statuses, err
	}
	for i, rcpt := range rcpts {
		if r := parseReply(more.Recipients[rcpt.Address.String()]); r != nil {
			statuses[i].Reply, statuses[i].Action = r, action(r)
		}
	}
	return statuses, nil
}

func action(r *mail.Reply) queue.Action {
	switch {
	case r.Permanent():
		return queue.Failed
	case r.Temporary():
		return queue.Delayed
	}
	return queue.Delivered
}

// readAnswer reads what a response has, if it is JSON and not too long.
func readAnswer(resp *http.Response) (more answer) {
	b, err := upstream.ReadAll(resp.Body, maxAnswer)
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || typ != "application/json" || json.Unmarshal(b, &more) != nil {
		return answer{}
	}
	return more
}

var replyPattern = regexp.MustCompile(`^([245]\.\d{1,3}\.\d{1,3})(?: +(.*))?$`)

// maxText is how much of an endpoint's words is told, in octets.
const maxText = 200

// parseReply reads an enhanced status code and a text. It returns nil for what is
// none.
func parseReply(s string) *mail.Reply {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
	m := replyPattern.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		return nil
	}
	text := m[2]
	if text == "" {
		text = "said the endpoint"
	}
	return &mail.Reply{Code: codeOf(m[1]), Enh: m[1], Text: text[:min(len(text), maxText)]}
}

// codeOf is the reply code that goes with an enhanced status code.
func codeOf(enh string) int {
	switch {
	case enh[0] == '2':
		return 250
	case enh[0] == '4':
		return 451
	case strings.HasPrefix(enh, "5.1."), strings.HasPrefix(enh, "5.2."), strings.HasPrefix(enh, "5.7."):
		return 550
	}
	return 554
}

// notBefore reads a Retry-After (RFC 9110, section 10.2.3).
func (a *Agent) notBefore(value string) time.Time {
	now, limit := time.Now(), time.Duration(a.MaxRetryAfter)
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return now.Add(min(time.Duration(n)*time.Second, limit))
	}
	if t, err := http.ParseTime(value); err == nil && t.After(now) {
		return now.Add(min(t.Sub(now), limit))
	}
	return time.Time{}
}

// withoutURL is the cause of an error of the client, which shows the URL and what
// may be secret in it.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
