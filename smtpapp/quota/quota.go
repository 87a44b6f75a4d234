// Package quota counts what users send, and says when they have sent as much as
// they may. It knows nothing of sessions or of where limits come from. What it
// counts is kept in a journal, which is written behind the back of whoever
// sends, so that a crash may forget the last seconds.
package quota

import (
	"fmt"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/window"
)

// What is counted.
type What string

// The things that are counted.
const (
	Messages      What = "messages"
	Recipients    What = "recipients"
	NewRecipients What = "new_recipients" // to whom the user never wrote before
)

// A Limit is how many there may be in any time of that length.
type Limit struct {
	What  What
	Count int
	Per   time.Duration
}

// A Use is how much is to be sent.
type Use struct{ Messages, Recipients, New int }

func (u Use) of(w What) int {
	switch w {
	case Messages:
		return u.Messages
	case Recipients:
		return u.Recipients
	}
	return u.New
}

// An Over says which limit was reached.
type Over struct {
	Limit
	Retry time.Duration // after which there is room again
}

// String writes it for the user.
func (o *Over) String() string {
	what := map[What]string{Messages: "messages", Recipients: "recipients", NewRecipients: "first-time recipients"}[o.What]
	return fmt.Sprintf("quota of %d %s in %s reached; try again in %s", o.Count, what, exact(o.Per), rough(o.Retry))
}

// units are what durations are written in: each up to twice the next.
var units = []struct {
	length time.Duration
	name   string
}{{time.Second, "s"}, {time.Minute, "min"}, {time.Hour, "h"}, {24 * time.Hour, "d"}}

// exact writes a duration of whole seconds.
func exact(d time.Duration) string {
	for _, u := range slices.Backward(units) {
		if d%u.length == 0 {
			return fmt.Sprintf("%d%s", d/u.length, u.name)
		}
	}
	return d.String()
}

// rough writes a duration, rounded up to what matters of it.
func rough(d time.Duration) string {
	u := units[0]
	for _, next := range units[1:] {
		if d >= 2*next.length {
			u = next
		}
	}
	return fmt.Sprintf("%d%s", max((d+u.length-1)/u.length, 1), u.name)
}

// A counter counts one thing.
type counter struct {
	what What
	window.Window
}

func newCounter(what What, per time.Duration) *counter {
	return &counter{what, window.Window{Per: per}}
}
