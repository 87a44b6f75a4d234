package smtpapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// queue answers for the queue as a whole.
func (a *admin) queue(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		return a.operate(w, r)
	}
	return a.list(w, r)
}

// list answers with the entries that the query asks for.
func (a *admin) list(w http.ResponseWriter, r *http.Request) error {
	if err := method(r, http.MethodGet); err != nil {
		return err
	}
	q, err := activeQueue()
	if err != nil {
		return err
	}
	query := r.URL.Query()
	f, err := filter(query)
	if err == nil {
		err = unambiguous(query)
	}
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	es, err := q.List(r.Context(), f)
	if err != nil {
		return apiError(http.StatusInternalServerError, err)
	}
	out := make([]entryView, 0, len(es))
	for _, e := range es {
		out = append(out, view(e))
	}
	return answer(w, out)
}

// unambiguous returns an error for an option without a value, which would choose
// everything, or with several, of which only one would count.
func unambiguous(query url.Values) error {
	for name, values := range query {
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("%s: want one value", name)
		}
	}
	return nil
}

// filter reads the query of a list. What it does not know is an error, since
// it would otherwise be taken for a filter that matches everything.
func filter(query url.Values) (f queue.Filter, err error) {
	for name, values := range query {
		if err := filterOption(&f, name, values[0]); err != nil {
			return f, err
		}
	}
	return f, nil
}

func filterOption(f *queue.Filter, name, v string) (err error) {
	switch name {
	case "sender": // <> is the null reverse-path
		f.Sender = v
	case "recipient":
		f.Recipient = v
	case "domain": // of a recipient
		f.Domain = strings.ToLower(v)
	case "agent":
		f.Agent = v
	case "held":
		held, err := strconv.ParseBool(v)
		if err != nil {
			return errors.New("held: want true or false")
		}
		f.Held = &held
	case "older":
		f.Older, err = age(name, v)
	case "younger":
		f.Younger, err = age(name, v)
	case "reply": // is part of the last reply
		f.Reply = v
	case "after":
		f.After = v
	case "limit":
		if f.Limit, err = strconv.Atoi(v); err != nil || f.Limit < 1 || f.Limit > maxPage {
			return fmt.Errorf("limit: want a number from 1 to %d", maxPage)
		}
	default:
		return fmt.Errorf("no filter %q", name)
	}
	return err
}

func age(name, v string) (time.Duration, error) {
	d, err := caddy.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s: want a duration such as 4h or 2d", name)
	}
	return d, nil
}

// maxPage bounds the entries of one answer.
const maxPage = 10_000

// entry answers for one entry, or acts on it.
func (a *admin) entry(w http.ResponseWriter, r *http.Request) error {
	id, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/smtp/queue/"), "/")
	q, err := activeQueue()
	if err != nil {
		return err
	}
	switch queue.Deed(verb) {
	case "":
		return a.show(w, r, q, id)
	case "message":
		return a.message(w, r, q, id)
	case queue.Retry, queue.Hold, queue.Release, queue.Delete, queue.Reassign:
		if err := method(r, http.MethodPost); err != nil {
			return err
		}
		query := r.URL.Query()
		err := unambiguous(query)
		var op queue.Operation
		if err == nil {
			op, err = operation(verb, query)
		}
		if err == nil && len(query) > 0 {
			err = fmt.Errorf("no option %q", anyKey(query))
		}
		if err != nil {
			return apiError(http.StatusBadRequest, err)
		}
		p, err := q.Operate(r.Context(), op, queue.Filter{IDs: []string{id}}, nil)
		if err != nil {
			return queueError(err)
		}
		return answer(w, p)
	}
	return apiError(http.StatusNotFound, fmt.Errorf("no such resource: %s", r.URL.Path))
}

func anyKey(v url.Values) string {
	for k := range v {
		return k
	}
	return ""
}

func (a *admin) show(w http.ResponseWriter, r *http.Request, q *queue.Queue, id string) error {
	if err := method(r, http.MethodGet); err != nil {
		return err
	}
	e, err := q.Get(r.Context(), id)
	if err != nil {
		return queueError(err)
	}
	v := view(e)
	for i, r := range e.Recipients {
		for _, t := range r.History {
			v.Recipients[i].History = append(v.Recipients[i].History, attemptView{t.At, t.Took.Seconds(), t.Agent, t.Remote, t.Reply})
		}
	}
	return answer(w, v)
}

// message answers with the content of an entry, as a file.
func (a *admin) message(w http.ResponseWriter, r *http.Request, q *queue.Queue, id string) error {
	if err := method(r, http.MethodGet); err != nil {
		return err
	}
	m, err := q.Content(r.Context(), id)
	if err != nil {
		return queueError(err)
	}
	body, err := m.NewReader()
	if err != nil {
		return queueError(err)
	}
	defer body.Close()
	h := w.Header()
	h.Set("Content-Type", "message/rfc822")
	h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", id+".eml"))
	h.Set("Content-Length", strconv.FormatInt(m.Size(), 10)) // so that content that is damaged half way is seen to be short
	_, err = io.Copy(w, body)
	return err
}

// operation reads what is to be done, and takes it out of the query.
func operation(deed string, query url.Values) (op queue.Operation, err error) {
	op.Deed = queue.Deed(deed)
	switch op.Deed {
	case queue.Delete:
		if v := query.Get("report"); v != "" {
			if op.Report, err = strconv.ParseBool(v); err != nil {
				return op, errors.New("report: want true or false")
			}
			query.Del("report")
		}
	case queue.Reassign:
		if op.Agent = query.Get("to"); op.Agent == "" {
			return op, errors.New("to: want the name of an agent")
		}
		query.Del("to")
	case queue.Retry, queue.Hold, queue.Release:
	default:
		return op, fmt.Errorf("do: want retry, hold, release, delete or reassign, not %q", deed)
	}
	return op, nil
}

// A progressLine is a line of what operate answers. The last one says that it
// is, or what went wrong.
type progressLine struct {
	queue.Progress
	Finished bool   `json:"finished,omitempty"`
	Error    string `json:"error,omitempty"`
}

// operate does something to all that the query chooses: do=<deed>, then its
// options (report=true for delete, to=<agent> for reassign) and filters. Without
// a filter it wants all=true. It answers with lines of JSON as it gets on; when
// the client goes away, it stops between two batches.
func (a *admin) operate(w http.ResponseWriter, r *http.Request) error {
	q, err := activeQueue()
	if err != nil {
		return err
	}
	op, f, err := request(r.URL.Query())
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	begun := false
	out := json.NewEncoder(w)
	say := func(l progressLine) {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/jsonl")
		}
		_ = out.Encode(l)
		_ = http.NewResponseController(w).Flush()
	}
	p, err := q.Operate(r.Context(), op, f, func(p queue.Progress) { say(progressLine{Progress: p}) })
	switch {
	case err == nil:
		say(progressLine{Progress: p, Finished: true})
	case !begun:
		return queueError(err)
	default: // the status has been sent
		say(progressLine{Progress: p, Error: err.Error()})
	}
	return nil
}

func request(query url.Values) (op queue.Operation, f queue.Filter, err error) {
	if err := unambiguous(query); err != nil {
		return op, f, err
	}
	deed, all := query.Get("do"), query.Get("all")
	query.Del("do")
	query.Del("all")
	if op, err = operation(deed, query); err != nil {
		return op, f, err
	}
	if query.Has("limit") || query.Has("after") {
		return op, f, errors.New("limit and after are for lists")
	}
	switch {
	case len(query) == 0 && all != "true":
		err = errors.New("no filter: say all=true for the whole queue")
	case len(query) > 0 && all != "":
		err = errors.New("all is the opposite of a filter")
	default:
		f, err = filter(query)
	}
	return op, f, err
}

func queueError(err error) error {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, queue.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, queue.ErrNoAgent):
		status = http.StatusBadRequest
	case errors.Is(err, queue.ErrClosed):
		status = http.StatusServiceUnavailable
	}
	return apiError(status, err)
}

// An entryView is an entry as the API shows it.
type entryView struct {
	ID         string          `json:"id"`
	Queued     time.Time       `json:"queued"`
	From       string          `json:"from"`
	User       string          `json:"user,omitempty"`
	EnvelopeID string          `json:"envid,omitempty"`
	Priority   int             `json:"priority,omitempty"`
	RequireTLS bool            `json:"require_tls,omitempty"`
	HoldUntil  time.Time       `json:"hold_until,omitzero"` // as the client asked (RFC 4865)
	DeliverBy  time.Time       `json:"deliver_by,omitzero"` // as the client asked (RFC 2852)
	Returned   bool            `json:"returned,omitempty"`  // the message, when that is over
	Recipients []recipientView `json:"recipients"`
}

type recipientView struct {
	Address  string        `json:"address"`
	Given    string        `json:"given,omitempty"` // as the client named it, if it was rewritten
	Agent    string        `json:"agent"`
	Held     bool          `json:"held,omitempty"` // not tried before it is released
	Reason   string        `json:"reason,omitempty"`
	Attempts int           `json:"attempts"`
	Next     time.Time     `json:"next_attempt"`
	Reply    string        `json:"last_reply,omitempty"`
	Remote   string        `json:"remote,omitempty"`
	History  []attemptView `json:"history,omitempty"` // the last attempts, oldest first; of one entry alone
}

type attemptView struct {
	At     time.Time `json:"at"`
	Took   float64   `json:"seconds"`
	Agent  string    `json:"agent"`
	Remote string    `json:"remote,omitempty"`
	Reply  string    `json:"reply,omitempty"`
}

func view(e *queue.Entry) entryView {
	env := e.Envelope
	v := entryView{
		ID: e.ID, Queued: e.Queued, From: env.From.String(), User: env.AuthUser, EnvelopeID: env.ID,
		Priority: env.Priority, RequireTLS: env.RequireTLS, HoldUntil: env.HoldUntil,
		DeliverBy: env.DeliverBy, Returned: env.DeliverByReturn,
	}
	for _, r := range e.Recipients {
		rv := recipientView{
			Address: r.Address.String(), Agent: r.Agent, Held: r.Held, Reason: r.Reason,
			Attempts: r.Attempts, Next: r.Due, Remote: r.Last.RemoteMTA,
		}
		if r.Given != r.Address {
			rv.Given = r.Given.String()
		}
		if r.Last.Reply != nil {
			rv.Reply = r.Last.Reply.Error()
		}
		v.Recipients = append(v.Recipients, rv)
	}
	return v
}
