package smtpapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(admin)) }

// admin is the app's part of Caddy's admin API:
//
//	GET  /smtp/queue               the entries; filters: sender, recipient, domain, agent; limit, after
//	GET  /smtp/queue/<id>          one entry with its recipients
//	POST /smtp/queue/<id>/retry    an attempt now
//
// It never shows content. Whoever reaches the admin endpoint can use it.
type admin struct{}

// CaddyModule returns the Caddy module information.
func (*admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.smtp", New: func() caddy.Module { return new(admin) }}
}

// Routes are the paths of the API.
func (a *admin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/smtp/queue", Handler: caddy.AdminHandlerFunc(a.list)},
		{Pattern: "/smtp/queue/", Handler: caddy.AdminHandlerFunc(a.entry)},
	}
}

// activeQueue asks for the app at each request: the admin API is replaced
// before the apps of a configuration start, and stays if they fail.
func activeQueue() (*queue.Queue, error) {
	v, err := caddy.ActiveContext().AppIfConfigured("smtp")
	if err != nil {
		return nil, apiError(http.StatusNotFound, errors.New("the smtp app is not configured"))
	}
	app, ok := v.(*App)
	if !ok || app.queue == nil {
		return nil, apiError(http.StatusServiceUnavailable, errors.New("the smtp app has not started"))
	}
	return app.queue.Queue, nil
}

func apiError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

func method(r *http.Request, want string) error {
	if r.Method == want {
		return nil
	}
	return apiError(http.StatusMethodNotAllowed, fmt.Errorf("%s is for %s", r.URL.Path, want))
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
	f, err := filter(r.URL.Query())
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

// filter reads the query of a list. What it does not know is an error, since
// it would otherwise be taken for a filter that matches everything.
func filter(query url.Values) (f queue.Filter, err error) {
	for name, values := range query {
		v := values[0]
		switch name {
		case "sender":
			f.Sender = v
		case "recipient":
			f.Recipient = v
		case "domain":
			f.Domain = v
		case "agent":
			f.Agent = v
		case "after":
			f.After = v
		case "limit":
			if f.Limit, err = strconv.Atoi(v); err != nil || f.Limit < 1 || f.Limit > maxPage {
				return f, fmt.Errorf("limit: want a number from 1 to %d", maxPage)
			}
		default:
			return f, fmt.Errorf("no filter %q", name)
		}
	}
	return f, nil
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
	switch verb {
	case "":
		return a.show(w, r, q, id)
	case "retry":
		if err := method(r, http.MethodPost); err != nil {
			return err
		}
		return notFound(q.Retry(r.Context(), id))
	}
	return apiError(http.StatusNotFound, fmt.Errorf("no such resource: %s", r.URL.Path))
}

func (a *admin) show(w http.ResponseWriter, r *http.Request, q *queue.Queue, id string) error {
	if err := method(r, http.MethodGet); err != nil {
		return err
	}
	e, err := q.Get(r.Context(), id)
	if err != nil {
		return notFound(err)
	}
	return answer(w, view(e))
}

func notFound(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, queue.ErrNotFound):
		return apiError(http.StatusNotFound, err)
	}
	return apiError(http.StatusInternalServerError, err)
}

// An entryView is an entry as the API shows it.
type entryView struct {
	ID         string          `json:"id"`
	Queued     time.Time       `json:"queued"`
	From       string          `json:"from"`
	User       string          `json:"user,omitempty"`
	Recipients []recipientView `json:"recipients"`
}

type recipientView struct {
	Address  string    `json:"address"`
	Given    string    `json:"given,omitempty"` // as the client named it, if it was rewritten
	Agent    string    `json:"agent"`
	Held     bool      `json:"held,omitempty"` // not tried before a retry is asked for; last_reply says why
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next_attempt"`
	Reply    string    `json:"last_reply,omitempty"`
	Remote   string    `json:"remote,omitempty"`
}

func view(e *queue.Entry) entryView {
	v := entryView{ID: e.ID, Queued: e.Queued, From: e.Envelope.From.String(), User: e.Envelope.AuthUser}
	for _, r := range e.Recipients {
		rv := recipientView{Address: r.Address.String(), Agent: r.Agent, Held: r.Held, Attempts: r.Attempts, Next: r.Due, Remote: r.Last.RemoteMTA}
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

func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}
