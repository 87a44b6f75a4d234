package storetest

import (
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

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
	// After, if it is not nil, is called after each commit, before whoever
	// waits for it goes on.
	After func(*queue.Change)

	mu      sync.Mutex
	closed  bool
	entries map[string]*queue.Entry
	begun   []*started
}

// Open returns the store as if a new process had opened it.
func (m *Memory) Open() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = map[string]*queue.Entry{}
	}
	m.closed = false
	ids := map[string]bool{}
	for _, a := range m.begun {
		ids[a.entry] = true
		for _, i := range a.done {
			m.update(&queue.Recipient{Entry: a.entry, Index: i, Done: true})
		}
	}
	for id := range ids {
		m.died(id)
	}
	m.begun = nil
	return m
}

// died counts an attempt that was under way when the process before ended.
func (m *Memory) died(id string) {
	e := m.entries[id]
	if e == nil {
		return
	}
	soon := time.Now().Add(rand.N(time.Minute))
	for _, r := range e.Recipients {
		if r.Held {
			continue
		}
		if r.Starts++; r.Starts > 1 && r.Due.Before(soon) {
			r.Due = soon
		}
	}
}

// Begin implements queue.Store.
func (m *Memory) Begin(entry string) queue.Started {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &started{m: m, entry: entry}
	m.begun = append(m.begun, a)
	return a
}

type started struct {
	m     *Memory
	entry string
	done  []int
}

func (a *started) Settled(indices []int) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.done = append(a.done, indices...)
}

func (a *started) End() {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.begun = slices.DeleteFunc(a.m.begun, func(o *started) bool { return o == a })
}

// SetFail sets Fail while the store is in use.
func (m *Memory) SetFail(f func(*queue.Change) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Fail = f
}

// Create implements queue.Store.
func (m *Memory) Create() (*os.File, error) { return os.CreateTemp("", "storetest") }

// Commit implements queue.Store.
func (m *Memory) Commit(_ context.Context, c *queue.Change) error {
	err := m.commit(c)
	if err == nil && m.After != nil {
		m.After(c)
	}
	return err
}

func (m *Memory) commit(c *queue.Change) error {
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
	for _, k := range c.Mark {
		m.mark(k)
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
		n := recipientOf(r)
		n.Agent, n.Wish = e.Recipients[i].Agent, e.Recipients[i].Wish
		e.Recipients[i] = n
	default:
		if e.Recipients = slices.Delete(e.Recipients, i, i+1); len(e.Recipients) == 0 {
			delete(m.entries, e.ID)
		}
	}
}

func (m *Memory) mark(k queue.Mark) {
	e := m.entries[k.Entry]
	if e == nil {
		return
	}
	for _, r := range e.Recipients {
		if r.Index != k.Index {
			continue
		}
		if r.Wish = k.Wish; k.Agent != "" {
			r.Agent = k.Agent
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
		RRVS: m.RRVS, RRVSReject: m.RRVSReject, Agent: m.Agent, Expanded: m.Expanded,
	}
	n.Last = queue.Status{Reply: r.Last.Reply, RemoteMTA: r.Last.RemoteMTA}
	n.History = slices.Clone(r.History)
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

// Bins implements queue.Store.
func (m *Memory) Bins(_ context.Context, after int64) ([]queue.Bin, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := map[int64]*queue.Bin{}
	for _, e := range m.entries {
		for _, r := range e.Recipients {
			if r.Bin <= after {
				continue
			}
			b := found[r.Bin]
			if b == nil {
				b = &queue.Bin{ID: r.Bin, Due: r.Due, Last: r.Due, Speak: r.Speak}
				found[r.Bin] = b
			}
			if r.Due.Before(b.Due) {
				b.Due = r.Due
			}
			if r.Due.After(b.Last) {
				b.Last = r.Due
			}
			if r.Speak.Before(b.Speak) {
				b.Speak = r.Speak
			}
		}
	}
	var bs []queue.Bin
	for _, id := range slices.Sorted(maps.Keys(found)) {
		bs = append(bs, *found[id])
	}
	return bs, nil
}

// Waiting implements queue.Store.
func (m *Memory) Waiting(_ context.Context, w queue.Wait) (es []*queue.Entry, next time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var order []*queue.Recipient
	for _, e := range m.entries {
		for _, r := range e.Recipients {
			if chosen(r, w) {
				order = append(order, r)
			}
		}
	}
	slices.SortFunc(order, func(a, b *queue.Recipient) int {
		if w.Bin == 0 {
			return strings.Compare(a.Entry, b.Entry)
		}
		return timeOf(a, w).Compare(timeOf(b, w))
	})
	seen := map[string]bool{}
	for i, r := range order {
		if w.Bin != 0 && (i >= w.Limit || timeOf(r, w).After(w.Until)) {
			return es, timeOf(r, w), nil
		}
		if seen[r.Entry] {
			continue
		}
		if i >= w.Limit {
			break
		}
		seen[r.Entry] = true
		e := copyOf(m.entries[r.Entry])
		e.Recipients = slices.DeleteFunc(e.Recipients, func(r *queue.Recipient) bool {
			return !chosen(r, w) || w.Bin != 0 && timeOf(r, w).After(w.Until)
		})
		es = append(es, e)
	}
	return es, next, nil
}

func timeOf(r *queue.Recipient, w queue.Wait) time.Time {
	if w.Speak {
		return r.Speak
	}
	return r.Due
}

func chosen(r *queue.Recipient, w queue.Wait) bool {
	if w.Bin == 0 {
		return r.Bin == 0 && !r.Held && r.Entry > w.After && (w.IDs == nil || slices.Contains(w.IDs, r.Entry))
	}
	return r.Bin == w.Bin && timeOf(r, w).After(w.From)
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
