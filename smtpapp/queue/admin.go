package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Get returns an entry without its content.
func (q *Queue) Get(ctx context.Context, id string) (*Entry, error) { return q.store.Get(ctx, id) }

// Content returns the content of an entry.
func (q *Queue) Content(ctx context.Context, id string) (*message.Message, error) {
	return q.store.Content(ctx, id)
}

// A Filter chooses entries, and recipients of them. Zero fields do not matter.
type Filter struct {
	IDs       []string
	Sender    string // "<>" for the null reverse-path
	Recipient string
	Domain    string // of a recipient
	Agent     string
	Held      *bool
	Older     time.Duration // queued for at least this long
	Younger   time.Duration // queued for less than this
	Reply     string        // is part of the last reply, in any case of letters

	After string // id of the last entry of the page before
	Limit int    // of List, default 100
}

// List returns entries without their content, oldest first.
func (q *Queue) List(ctx context.Context, f Filter) ([]*Entry, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	var out []*Entry
	err := q.each(ctx, &f, func(e *Entry) bool {
		out = append(out, e)
		return len(out) < f.Limit
	})
	if err != nil {
		return nil, fmt.Errorf("listing the queue: %w", err)
	}
	return out, nil
}

// each calls g for the entries that a filter chooses, until it returns false.
func (q *Queue) each(ctx context.Context, f *Filter, g func(*Entry) bool) error {
	now := time.Now()
	return q.store.Each(ctx, f.After, func(e *Entry) bool {
		return !f.chooses(e, now) || g(e)
	})
}

// chooses reports whether a recipient of an entry is chosen.
func (f *Filter) chooses(e *Entry, now time.Time) bool {
	age := now.Sub(e.Queued)
	if f.IDs != nil && !slices.Contains(f.IDs, e.ID) ||
		f.Sender != "" && e.Envelope.From.String() != strings.Trim(f.Sender, "<>") ||
		f.Older > 0 && age < f.Older || f.Younger > 0 && age >= f.Younger {
		return false
	}
	return slices.ContainsFunc(e.Recipients, f.choosesRecipient)
}

func (f *Filter) choosesRecipient(r *Recipient) bool {
	if f.Recipient != "" && r.Address.String() != f.Recipient || f.Domain != "" && r.Address.Domain != f.Domain ||
		f.Agent != "" && r.Agent != f.Agent || f.Held != nil && r.Held != *f.Held {
		return false
	}
	return f.Reply == "" || r.Last.Reply != nil && strings.Contains(strings.ToLower(r.Last.Reply.Error()), strings.ToLower(f.Reply))
}
