package dsn

import (
	_ "embed" // DefaultText
	"strings"
	"time"
)

// DefaultText is the template of the part that people read, and of the subject.
//
//go:embed default.txt
var DefaultText string

// A Letter is what a template is given. All of its text is safe to write as it
// is: single lines of printing characters.
type Letter struct {
	Hostname   string
	Postmaster string
	// Action is the worst of the recipients': failed, delayed, delivered, relayed
	// or expanded.
	Action string
	// Double says that the sender cannot be told, and so the postmaster is.
	Double bool

	Sender     string  // the reverse-path, "" if it is null
	Subject    string  // of the message reported on; "" if it has none to show
	EnvelopeID string  // that the sender gave (ENVID), "" if he gave none
	Arrived    *Moment // when it was accepted; nil if unknown

	Recipients []Line // all of them
	Failed     []Line
	Delayed    []Line
	Done       []Line // delivered, relayed, expanded
}

// A Line is what a template is told of one recipient.
type Line struct {
	Address string
	Action  string   // see Letter.Action
	Status  string   // enhanced status code
	Remote  string   // the host that answered, "" if it was this one
	Reply   string   // what it said, on one line, if the message is not delivered
	Words   []string // the same, wrapped
	Advice  []string // what the sender can do, wrapped
	Tried   *Moment  // when the last attempt was; nil if there was none
	Until   *Moment  // when a delayed message is given up; nil if unknown
}

// A Moment is a time, which writes itself as mail has dates (RFC 5322, section
// 3.3). A template may write it otherwise by its methods, such as Format.
type Moment struct{ time.Time }

func (m Moment) String() string { return m.Format(dateFormat) }

func moment(t time.Time) *Moment {
	if t.IsZero() {
		return nil
	}
	return &Moment{t}
}

func (r *Report) letter() *Letter {
	l := &Letter{
		Hostname: wide.plain(r.Hostname), Postmaster: wide.plain(r.from().Unicode()), Action: r.kind().String(), Double: r.double(),
		EnvelopeID: wide.plain(r.Envelope.ID), Arrived: moment(r.Arrived),
	}
	if from := r.Envelope.From; !from.IsNull() {
		l.Sender = wide.plain(from.Unicode())
	}
	if r.Content != nil {
		l.Subject = decoded(r.Content.Header.Get("Subject"))
	}
	for i := range r.Recipients {
		l.add(r.Recipients[i].Action, r.Recipients[i].line())
	}
	return l
}

func (l *Letter) add(a Action, line Line) {
	l.Recipients = append(l.Recipients, line)
	switch a {
	case Failed:
		l.Failed = append(l.Failed, line)
	case Delayed:
		l.Delayed = append(l.Delayed, line)
	default:
		l.Done = append(l.Done, line)
	}
}

func (r *Recipient) line() Line {
	l := Line{
		Address: wide.plain(r.address().Unicode()),
		Action:  r.Action.String(),
		Status:  r.status(),
		Remote:  wide.plain(r.RemoteMTA),
		Advice:  wrap(r.advice()),
		Tried:   moment(r.LastAttempt),
	}
	if r.Reply != nil && (r.Action == Failed || r.Action == Delayed) {
		l.Reply = wide.plain(r.Reply.Error())
		l.Words = wrap(l.Reply)
	}
	if r.Action == Delayed {
		l.Until = moment(r.Until)
	}
	return l
}

// crlf ends lines with CRLF, whatever a template ends them with.
func crlf(s string) []byte {
	s = strings.NewReplacer("\r\n", "\r\n", "\n", "\r\n", "\r", "\r\n").Replace(s)
	if !strings.HasSuffix(s, "\r\n") {
		s += "\r\n"
	}
	return []byte(s)
}
