package queue

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"os"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A Store keeps entries. It has a method for each question that the schedule
// and operators ask, and one that writes; to split them would only part what
// every implementation must have. storetest is its conformance suite.
type Store interface {
	// Create makes a file for content that is arriving, on the file system
	// where it will stay.
	Create() (*os.File, error)
	// Commit makes a change durable, all of it or nothing. When it returns
	// nil, the change outlives the process and the machine's power. A change
	// that only adds is refused with a *mail.Reply while there is no room.
	Commit(ctx context.Context, c *Change) error
	// Each calls f for all entries, without their content, in the order of
	// their ids from the first behind after, until it returns false. An entry
	// that cannot be read is left out and logged: it must not block the others.
	Each(ctx context.Context, after string, f func(*Entry) bool) error
	// Get returns an entry without its content; ErrNotFound if there is none.
	Get(ctx context.Context, id string) (*Entry, error)
	// Content returns an entry's content, and ErrDamaged, alone or from whoever
	// reads it, if that is not what was stored.
	Content(ctx context.Context, id string) (*message.Message, error)
	Close() error
}

// ErrDamaged says that the content of an entry is missing or not what was
// stored.
var ErrDamaged = message.ErrCorrupt

// A Change is what one commit does.
type Change struct {
	// Add are new entries. Those with the same Body share it.
	Add []*Entry
	// Update are recipients with their new state. An entry whose recipients
	// are all done is removed, and its body when no other has it. What is gone
	// already stays so.
	Update []*Recipient
}

// An Entry is a queued message with the recipients that are treated alike.
type Entry struct {
	ID         string
	Queued     time.Time
	Envelope   *mail.Envelope // without its recipients
	Recipients []*Recipient   // those that are not done
	Content    *message.Message
}

// A Recipient is one recipient of an entry and the state of its delivery.
type Recipient struct {
	*mail.Recipient
	Entry string // id
	Index int

	Done     bool
	Held     bool // not tried until released; Last says why
	Noticed  bool // the sender was told of the delay
	Attempts int
	Due      time.Time
	Last     Status // of the last attempt
}

// NewID returns an id for a transaction and its entries: sortable by time,
// unguessable, and fit for file names, logs and replies.
func NewID() string {
	var b [15]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMicro())<<12)
	_, _ = rand.Read(b[6:]) // never fails
	return enc.EncodeToString(b[:])
}

var enc = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
