package smtpapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(admin)) }

// admin is the app's part of Caddy's admin API:
//
//	GET  /smtp/queue               the entries; filters: see filter; limit, after
//	POST /smtp/queue?do=<deed>     a deed on what the filters choose; see operate
//	GET  /smtp/queue/<id>          one entry with its recipients and their attempts
//	GET  /smtp/queue/<id>/message  its content
//	POST /smtp/queue/<id>/<deed>   retry, hold, release, delete, reassign
//	GET  /smtp/destinations        those that are paused, or have less than they may have; see destinations
//	POST /smtp/destinations?do=resume  ends that, whoever they are
//	GET  /smtp/dkim                the keys and their DNS records; domain, check
//	POST /smtp/dkim/rotate         replaces the keys of a domain; domain, now
//	GET  /smtp/bans                the addresses and networks that are banned for failed logins
//	DELETE /smtp/bans/<address>    lifts the bans that concern an address or a network
//
// Content is shown to who asks for it alone. Whoever reaches the admin endpoint
// can use all of it.
type admin struct{}

// CaddyModule returns the Caddy module information.
func (*admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.smtp", New: func() caddy.Module { return new(admin) }}
}

// Routes are the paths of the API.
func (a *admin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/smtp/queue", Handler: caddy.AdminHandlerFunc(a.queue)},
		{Pattern: "/smtp/queue/", Handler: caddy.AdminHandlerFunc(a.entry)},
		{Pattern: "/smtp/destinations", Handler: caddy.AdminHandlerFunc(a.destinations)},
		{Pattern: "/smtp/dkim", Handler: caddy.AdminHandlerFunc(a.dkim)},
		{Pattern: "/smtp/dkim/rotate", Handler: caddy.AdminHandlerFunc(a.rotateDKIM)},
		{Pattern: "/smtp/bans", Handler: caddy.AdminHandlerFunc(a.bans)},
		{Pattern: "/smtp/bans/", Handler: caddy.AdminHandlerFunc(a.bans)},
	}
}

func activeQueue() (*queue.Queue, error) {
	app, err := activeApp()
	if err != nil {
		return nil, err
	}
	return app.queue.Queue, nil
}

// activeApp asks for the app at each request: the admin API is replaced before
// the apps of a configuration start, and stays if they fail.
func activeApp() (*App, error) {
	v, err := caddy.ActiveContext().AppIfConfigured("smtp")
	if err != nil {
		return nil, apiError(http.StatusNotFound, errors.New("the smtp app is not configured"))
	}
	app, ok := v.(*App)
	if !ok || app.queue == nil {
		return nil, apiError(http.StatusServiceUnavailable, errors.New("the smtp app has not started"))
	}
	return app, nil
}

func apiError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

func method(r *http.Request, want string) error {
	if r.Method == want {
		return nil
	}
	return apiError(http.StatusMethodNotAllowed, fmt.Errorf("%s is for %s", r.URL.Path, want))
}

func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}
