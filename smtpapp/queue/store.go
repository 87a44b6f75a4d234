package queue

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"os"
	"slices"
	"strings"
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
	// Begin notes that recipients of an entry are being tried.
	Begin(entry string) Started
	// Each calls f for all entries, without their content, in the order of
	// their ids from the first behind after, until it returns false. One whose
	// envelope is damaged comes as that: it must not block the others.
	Each(ctx context.Context, after string, f func(*Entry) bool) error
	// Bins returns what is in the bins with numbers above after, in their
	// order: the first some of them, and none if there are no more.
	Bins(ctx context.Context, after int64) ([]Bin, error)
	// Waiting returns entries with those of their recipients that w chooses.
	// Next is no later than the time by which the first that was left out would
	// have been chosen, zero if there is none.
	Waiting(ctx context.Context, w Wait) (es []*Entry, next time.Time, err error)
	// Get returns an entry without its content; ErrNotFound if there is none.
	Get(ctx context.Context, id string) (*Entry, error)
	// Content returns an entry's content, and ErrDamaged, alone or from whoever
	// reads it, if that is not what was stored.
	Content(ctx context.Context, id string) (*message.Message, error)
	Close() error
}

// A Started is an attempt that is under way. If the process ends before End is
// called, the Starts of the recipients that are left is one more when the store
// is opened again, and from the second time on they are due some time within a
// minute, so that not all of them are begun at once. Its notes need not outlive
// the machine's power: they are for the moment until a commit.
type Started interface {
	// Settled notes recipients that are done, with nothing to be told to anybody.
	// They are when the store is opened again, whatever was committed. It may be
	// called from several goroutines.
	Settled(indices []int)
	// End is for when the result has been committed.
	End()
}

// A Reserver is a Store that refuses new mail while less than some octets of
// its file system are free: 0 for its own default, negative for none.
type Reserver interface {
	Reserve(octets int64)
	// Room reports whether it takes new mail now.
	Room() bool
}

// A Bin is what waits under one number.
type Bin struct {
	ID    int64
	Due   time.Time // the first
	Last  time.Time // the last
	Speak time.Time // the first
}

// A Wait chooses recipients that wait in a bin, the first first. The limit is
// for them; with them come the others of their entries whose time has come too.
type Wait struct {
	// Bin is the bin. That of 0 are the recipients that are in none and not
	// held: what was in memory alone when the process ended. They come by the
	// ids of their entries, from behind After, and their times do not matter. To
	// find them may take to read all there is; those of IDs are found by these.
	Bin   int64
	After string
	IDs   []string // of entries, for bin 0; nil for all

	Speak bool      // by when to speak, not by when they are due
	From  time.Time // times after this
	Until time.Time // and not after that
	Limit int       // recipients
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
	// already stays so. Their agents and wishes stay as they are stored.
	Update []*Recipient
	// Mark is what operators want of recipients, whatever else their state is.
	Mark []Mark
}

// A Mark changes a recipient's agent, unless it is "", and its wish.
type Mark struct {
	Entry string
	Index int
	Agent string
	Wish  Wish
}

// A Wish is what is to be done with a recipient when the attempt that has it
// is over, unless that has settled it. It is stored, as the number that it is,
// so that the process may end meanwhile.
type Wish uint8

// The wishes.
const (
	NoWish Wish = iota
	WishHold
	WishDelete
	WishReport // delete, and tell the sender
)

// An Entry is a queued message with the recipients that are treated alike.
type Entry struct {
	ID         string
	Queued     time.Time
	Envelope   *mail.Envelope // without its recipients
	Recipients []*Recipient   // those that are not done
	Content    *message.Message

	// Damaged says that the envelope is not what was stored: nobody knows what
	// is to be done with the entry. All of its recipients are held then.
	Damaged bool
}

// A Recipient is one recipient of an entry and the state of its delivery.
type Recipient struct {
	*mail.Recipient
	Entry string // id
	Index int

	Done     bool
	Held     bool   // not tried until released
	Reason   string // why it is held
	Noticed  bool   // the sender was told of the delay
	Wish     Wish
	Attempts int
	Starts   int   // attempts since the last result that ended with the process, or a panic
	Bin      int64 // what it waits in, 0 for none
	Due      time.Time
	Speak    time.Time // when its sender is to be told, if it is in a bin
	Last     Status    // of the last attempt
	History  []Attempt // the last ones, oldest first

	timed bool // see Entry.timed; known when it is put into a bin
}

// An Attempt is what is remembered of one that did not settle a recipient. It
// is stored, so its fields are added to, never renamed.
type Attempt struct {
	At     time.Time     `json:"at"`
	Took   time.Duration `json:"took"`
	Agent  string        `json:"agent"`
	Remote string        `json:"remote,omitempty"`
	Reply  string        `json:"reply,omitempty"`
}

// Bounds of what is remembered: a remote server's words can be long, and many.
const (
	maxHistory = 10
	maxWords   = 512
)

// remember adds an attempt to a recipient's history.
func (r *Recipient) remember(began, now time.Time) {
	a := Attempt{At: began.Round(0), Took: now.Sub(began), Agent: r.Agent, Remote: r.Last.RemoteMTA}
	if r.Last.Reply != nil {
		a.Reply = strings.ToValidUTF8(r.Last.Reply.Error(), "?")
		if len(a.Reply) > maxWords {
			a.Reply = strings.ToValidUTF8(a.Reply[:maxWords], "") + "..."
		}
	}
	keep := r.History[max(0, len(r.History)-maxHistory+1):]
	r.History = append(slices.Clone(keep), a)
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
