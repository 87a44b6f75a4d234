package dns

import (
	"context"
	"sync"
	"time"
)

// A Budget is the time that all look-ups under a context may take together:
// those for one message, say, whoever makes them. Look-ups at the same time
// count once. It may be used by many goroutines.
type Budget struct {
	mu     sync.Mutex
	left   time.Duration
	active int
	since  time.Time // when active was last 0
}

// NewBudget returns a budget of d.
func NewBudget(d time.Duration) *Budget { return &Budget{left: d} }

type budgetKey struct{}

// WithBudget returns a context whose look-ups b bounds.
func WithBudget(ctx context.Context, b *Budget) context.Context {
	return context.WithValue(ctx, budgetKey{}, b)
}

// Bound is what a Resolver calls around each look-up: the context ends when the
// budget, if ctx has one, is used up, and done says that the look-up has ended.
func Bound(ctx context.Context) (bounded context.Context, done func()) {
	b, ok := ctx.Value(budgetKey{}).(*Budget)
	if !ok || b == nil {
		return ctx, func() {}
	}
	bounded, cancel := context.WithTimeout(ctx, b.begin())
	return bounded, func() {
		cancel()
		b.end()
	}
}

// Left returns what is left.
func (b *Budget) Left() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.active == 0 {
		return b.left
	}
	return b.left - time.Since(b.since)
}

func (b *Budget) begin() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.active++; b.active == 1 {
		b.since = time.Now()
	}
	return b.left - time.Since(b.since)
}

func (b *Budget) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.active--; b.active == 0 {
		b.left -= time.Since(b.since)
	}
}
