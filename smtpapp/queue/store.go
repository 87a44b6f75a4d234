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

// A Store keeps entries. storetest is its conformance suite.
type Store interface {
	// Create makes a file for content that is arriving, on the file system
	// where it will stay.
	Create() (*os.File, error)
	// Commit makes a change durable, all of it or nothing. When it returns
	// nil, the change outlives the process and the machine's power.
	Commit(ctx context.Context, c *Change) error
	// Each calls f for all entries, without their content, oldest first,
	// until it returns false.
	Each(ctx context.Context, f func(*Entry) bool) error
	// Get returns an entry with its content; ErrNotFound if there is none.
	Get(ctx context.Context, id string) (*Entry, error)
	Close() error
}

// A Change is what one commit does.
type Change struct {
	// Add are new entries. Those with the same Body share it.
	Add []*Entry
	// Update are recipients with their new state. An entry whose recipients
	// are all done is removed, and its body when no other has it.
	Update []*Recipient
	// Noticed are entries whose sender was told of the delay.
	Noticed []string
}

// An Entry is a queued message with the recipients that are treated alike.
type Entry struct {
	ID         string
	Queued     time.Time
	Envelope   *mail.Envelope // without its recipients
	Recipients []*Recipient   // those that are not done
	Noticed    bool           // the sender was told of the delay
	Content    *message.Message
}

// A Recipient is one recipient of an entry and the state of its delivery.
type Recipient struct {
	*mail.Recipient
	Entry string // id
	Index int

	Done     bool
	Held     bool // not tried until released
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
