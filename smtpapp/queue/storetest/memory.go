package storetest

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// Memory is a Store that forgets: for tests of what uses a Store. It can be
// opened again after Close, which keeps what it has.
type Memory struct {
	// Fail, if it is not nil, is asked before each commit, and its error is
	// what the commit comes to.
	Fail func(*queue.Change) error

	mu      sync.Mutex
	closed  bool
	entries map[string]*queue.Entry
}

// Open returns the store as if a new process had opened it.
func (m *Memory) Open() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = map[string]*queue.Entry{}
	}
	m.closed = false
	return m
}

// Create implements queue.Store.
func (m *Memory) Create() (*os.File, error) { return os.CreateTemp("", "storetest") }

// Commit implements queue.Store.
func (m *Memory) Commit(_ context.Context, c *queue.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return queue.ErrClosed
	}
	if m.Fail != nil {
		if err := m.Fail(c); err != nil {
			return err
		}
	}
	bodies := map[*message.Body]*message.Body{}
	ids := map[string]bool{}
	for _, e := range c.Add {
		if m.entries[e.ID] != nil || ids[e.ID] {
			return errors.New("id is taken")
		}
		ids[e.ID] = true
		if err := take(e.Content.Body(), bodies); err != nil {
			return err
		}
	}
	for _, e := range c.Add {
		n := copyOf(e)
		n.Content = message.New(e.Content.Header.Clone(), bodies[e.Content.Body()])
		m.entries[e.ID] = n
	}
	for _, r := range c.Update {
		m.update(r)
	}
	return nil
}

// take reads a body into memory.
func take(b *message.Body, into map[*message.Body]*message.Body) error {
	if into[b] != nil {
		return nil
	}
	r, err := b.NewReader()
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	into[b] = message.NewBody(data)
	return nil
}

func (m *Memory) update(r *queue.Recipient) {
	e := m.entries[r.Entry]
	if e == nil {
		return
	}
	i := slices.IndexFunc(e.Recipients, func(o *queue.Recipient) bool { return o.Index == r.Index })
	switch {
	case i < 0:
	case !r.Done:
		e.Recipients[i] = recipientOf(r)
	default:
		if e.Recipients = slices.Delete(e.Recipients, i, i+1); len(e.Recipients) == 0 {
			delete(m.entries, e.ID)
		}
	}
}

// copyOf returns an entry that shares nothing that changes, without content.
func copyOf(e *queue.Entry) *queue.Entry {
	n, env := *e, *e.Envelope
	n.Envelope, n.Recipients, n.Content = &env, nil, nil
	for _, r := range e.Recipients {
		n.Recipients = append(n.Recipients, recipientOf(r))
	}
	return &n
}

func recipientOf(r *queue.Recipient) *queue.Recipient {
	n, m := *r, *r.Recipient
	n.Recipient = &mail.Recipient{ // what a store keeps
		Address: m.Address, Given: m.Given, Notify: m.Notify, Original: m.Original,
		RRVS: m.RRVS, Agent: m.Agent, Expanded: m.Expanded,
	}
	n.Last = queue.Status{Reply: r.Last.Reply, RemoteMTA: r.Last.RemoteMTA}
	return &n
}

// Each implements queue.Store.
func (m *Memory) Each(ctx context.Context, after string, f func(*queue.Entry) bool) error {
	m.mu.Lock()
	var es []*queue.Entry
	for id, e := range m.entries {
		if id > after {
			es = append(es, copyOf(e))
		}
	}
	m.mu.Unlock()
	slices.SortFunc(es, func(a, b *queue.Entry) int { return strings.Compare(a.ID, b.ID) })
	for _, e := range es {
		if ctx.Err() != nil || !f(e) {
			return ctx.Err()
		}
	}
	return nil
}

// Get implements queue.Store.
func (m *Memory) Get(_ context.Context, id string) (*queue.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[id]; e != nil {
		return copyOf(e), nil
	}
	return nil, queue.ErrNotFound
}

// Content implements queue.Store.
func (m *Memory) Content(_ context.Context, id string) (*message.Message, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[id]; e != nil {
		return e.Content.Fork(), nil
	}
	return nil, queue.ErrNotFound
}

// Close implements queue.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

var _ queue.Store = (*Memory)(nil)
