package smtpapp

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// destinations answers with how the queue treats destinations, or has some of them
// treated as if nothing were known of them: do=resume. The query chooses them by
// agent, destination and source. Those that have all they may have are listed with
// all=true only; to resume all, that has to be said too.
func (a *admin) destinations(w http.ResponseWriter, r *http.Request) error {
	q, err := activeQueue()
	if err != nil {
		return err
	}
	query := r.URL.Query()
	f, all, err := siteFilter(query)
	do := query.Get("do")
	switch {
	case err != nil:
	case do == "":
		if err := method(r, http.MethodGet); err != nil {
			return err
		}
		return answer(w, standings(q, f, all))
	case do != "resume":
		err = fmt.Errorf("do: want resume, not %q", do)
	case all == (f != queue.SiteFilter{}):
		err = errors.New("name an agent, a destination or a source, or say all=true")
	}
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	if err := method(r, http.MethodPost); err != nil {
		return err
	}
	return answer(w, resumed{q.Resume(f)})
}

type resumed struct {
	Resumed int `json:"resumed"` // destinations
}

func standings(q *queue.Queue, f queue.SiteFilter, all bool) []queue.Standing {
	ss := q.Standings(f)
	if !all {
		ss = slices.DeleteFunc(ss, func(s queue.Standing) bool { return s.State == queue.Free })
	}
	return append([]queue.Standing{}, ss...) // not null where there is none
}

func siteFilter(query url.Values) (f queue.SiteFilter, all bool, err error) {
	if err := unambiguous(query); err != nil {
		return f, false, err
	}
	for name, values := range query {
		switch v := values[0]; name {
		case "do":
		case "agent":
			f.Agent = v
		case "destination":
			f.Destination = strings.ToLower(v)
		case "source":
			f.Source = v
		case "all":
			if all, err = strconv.ParseBool(v); err != nil {
				return f, all, errors.New("all: want true or false")
			}
		default:
			return f, all, fmt.Errorf("no filter %q", name)
		}
	}
	return f, all, nil
}
