package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Content is what is sent after DATA: a header, an empty line and a body.
type Content interface {
	// Size returns its octets.
	Size() int64
	// NewReader reads it from the start.
	NewReader() (io.ReadCloser, error)
}

// A Transaction is a mail transaction to be had with a peer.
type Transaction struct {
	Envelope   *mail.Envelope    // its Recipients are not looked at
	Recipients []*mail.Recipient // those to send to
	Content    Content

	// Commit, if set, is called when everything but the end of the content
	// has been said: what it returns without error the peer may take. On an
	// error the connection is closed and nothing is delivered.
	Commit func(ctx context.Context) error

	// Taken, if set, is called with the indices of recipients for whom the peer
	// took the message, as soon as it has said so.
	Taken func(rcpts []int)
}

// A Result is what became of one recipient.
type Result struct {
	// Reply is what the peer said of the recipient, or of all, last. It is nil
	// if the peer did not get to say it; Send's error then says why.
	Reply *mail.Reply

	// Phase is what the reply answers: PhaseMail, PhaseRcpt, PhaseData, or
	// PhaseDot for the whole content.
	Phase Phase

	// Local says that Reply is ours: the peer lacks what the message needs.
	Local bool
}

// Accepted reports whether the peer took the message for the recipient.
func (r Result) Accepted() bool {
	return r.Phase == PhaseDot && r.Reply != nil && r.Reply.Code/100 == 2
}

// Bounds of one write.
const (
	blockSize = 32 << 10 // of content and of the write buffer, octets
	chunkSize = 256 << 10
	// maxBatch is how many commands are sent before their replies are read.
	// RFC 2920, section 3.1: more could fill the buffers of both sides, and
	// then each would wait for the other.
	maxBatch = 100
	// maxChunks is the same for BDAT.
	maxChunks = 4
)

// Send has a mail transaction: it returns a Result for each recipient, in
// order. An error, a *RefusedError if the peer says goodbye before MAIL and
// an *Error otherwise, is what befell the recipients whose Result has no
// Reply; others may have been refused or, by LMTP, delivered before. Lines of
// the content end with CRLF when they leave, however they came, unless the
// envelope says BINARYMIME.
func (c *Conn) Send(ctx context.Context, tx *Transaction) ([]Result, error) {
	s := &sending{c: c, tx: tx, results: make([]Result, len(tx.Recipients))}
	if !c.Usable() {
		return s.results, &Error{Phase: PhaseMail, Err: ErrUnusable}
	}
	if !s.preflight() {
		return s.results, nil
	}
	r, err := tx.Content.NewReader()
	if err != nil {
		return s.results, &Error{Phase: PhaseContent, Err: err}
	}
	defer r.Close()
	s.content = r
	if c.dirty {
		if err := c.Reset(ctx); err != nil {
			return s.results, err
		}
	}
	defer c.watch(ctx)()
	if err := c.quiet(ctx, PhaseMail); err != nil {
		return s.results, err
	}
	c.sent++
	return s.results, s.run(ctx)
}

// sending is a transaction under way.
type sending struct {
	c       *Conn
	tx      *Transaction
	content io.Reader
	utf8    bool // MAIL says SMTPUTF8

	results []Result
	open    []int       // recipients that the peer took, by index
	refused bool        // MAIL was
	data    *mail.Reply // to DATA
}

// rest gives a result to those who have none.
func (s *sending) rest(r Result) {
	for i := range s.results {
		if s.results[i].Reply == nil {
			s.results[i] = r
		}
	}
}

// A step is a command whose reply need not be awaited before the next.
type step struct {
	phase Phase
	rcpt  int // index
	line  string
}

func (s *sending) run(ctx context.Context) error {
	chunked := s.c.ext.Has("CHUNKING")
	if err := s.converse(ctx, s.steps(chunked)); err != nil || s.c.broken {
		return err
	}
	switch {
	case len(s.open) == 0:
		return s.nobody(ctx)
	case chunked:
		return s.chunks(ctx)
	case s.data == nil:
		r, err := s.c.exchange(ctx, PhaseData, s.c.opts.Timeouts.Data, "DATA")
		if err != nil {
			return err
		}
		s.data = r
	}
	switch {
	case s.data.Code == 354:
		return s.text(ctx)
	case s.data.Code < 400:
		return s.c.abort(PhaseData, odd(s.data))
	}
	s.rest(Result{Reply: s.data, Phase: PhaseData})
	return nil
}

func odd(r *mail.Reply) error { return fmt.Errorf("%w: %d out of place", ErrProtocol, r.Code) }

// steps returns MAIL and RCPT, and DATA if that can go with them. Not so in
// LMTP, where a DATA that is taken without recipients has no reply at its end.
func (s *sending) steps(chunked bool) []step {
	s.utf8 = s.needsUTF8()
	steps := []step{{PhaseMail, 0, s.mailLine()}}
	for i, r := range s.tx.Recipients {
		if s.results[i].Reply == nil {
			steps = append(steps, step{PhaseRcpt, i, s.rcptLine(r)})
		}
	}
	if s.c.ext.Has("PIPELINING") && !chunked && !s.c.opts.LMTP {
		steps = append(steps, step{PhaseData, 0, "DATA"})
	}
	return steps
}

// converse sends steps, as many at a time as the peer allows, and notes the
// replies.
func (s *sending) converse(ctx context.Context, steps []step) error {
	n := 1
	if s.c.ext.Has("PIPELINING") {
		n = maxBatch
	}
	for batch := range slices.Chunk(steps, n) {
		if s.refused || batch[0].phase == PhaseData && len(s.open) == 0 {
			return nil
		}
		for _, st := range batch {
			s.c.say(ctx, s.c.opts.Timeouts.Command, st.line)
		}
		if err := s.c.w.Flush(); err != nil {
			return s.cut(ctx, batch[0].phase, err)
		}
		for _, st := range batch {
			if err := s.hear(ctx, st); err != nil || s.c.broken {
				return err
			}
		}
	}
	return nil
}

// hear reads the reply to a step.
func (s *sending) hear(ctx context.Context, st step) error {
	d := s.c.opts.Timeouts.Command
	if st.phase == PhaseData {
		d = s.c.opts.Timeouts.Data
	}
	r, err := s.c.reply(ctx, st.phase, d)
	if err != nil {
		return err
	}
	good := r.Code/100 == 2
	switch {
	case r.Code == 421:
		s.rest(Result{Reply: r, Phase: st.phase})
	case st.phase == PhaseData:
		s.data = r
	case r.Code/100 == 3:
		return s.c.abort(st.phase, odd(r))
	case st.phase == PhaseMail && good:
		s.c.dirty = true
	case st.phase == PhaseMail:
		s.refused = true
		s.rest(Result{Reply: r, Phase: PhaseMail})
	case s.refused: // whatever it says of recipients now
	case good:
		s.open = append(s.open, st.rcpt)
	default:
		s.results[st.rcpt] = Result{Reply: r, Phase: PhaseRcpt}
	}
	return nil
}

// nobody ends a transaction without recipients. If DATA went with them and was
// let through, an empty content ends it (RFC 2920, section 3.1).
func (s *sending) nobody(ctx context.Context) error {
	if s.data == nil || s.data.Code != 354 {
		return nil
	}
	_, err := s.c.exchange(ctx, PhaseDot, s.c.opts.Timeouts.Command, ".")
	return err
}

// cut is called when the network did not take what we said. The peer may have
// said why before it hung up.
func (s *sending) cut(ctx context.Context, p Phase, err error) error {
	defer s.c.Close()
	if ctx.Err() == nil {
		s.c.arm(ctx, time.Second)
		if r, e := readReply(s.c.r); e == nil && r.Code >= 400 {
			s.c.log(ctx, "S", r.Error())
			s.rest(Result{Reply: r, Phase: p})
			return nil
		}
	}
	return s.c.fail(ctx, p, err)
}

// text sends the content after DATA.
func (s *sending) text(ctx context.Context) error {
	c := s.c
	c.out.ctx, c.out.timeout = ctx, c.opts.Timeouts.Block
	n := &newliner{w: c.w, dots: true}
	phase, err := s.copy(n, func() error { return nil })
	if err == nil {
		err = n.finish()
	}
	switch {
	case phase == PhaseContent:
		return c.abort(phase, err)
	case err != nil:
		return s.cut(ctx, PhaseData, err)
	}
	if err := s.commit(ctx); err != nil || c.broken {
		return err
	}
	c.w.WriteString(".\r\n")
	if err := c.w.Flush(); err != nil {
		return s.cut(ctx, PhaseDot, err)
	}
	return s.verdict(ctx)
}

var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// copy writes the content to w and calls each after every block. The phase
// tells an error of reading from one of writing.
func (s *sending) copy(w io.Writer, each func() error) (Phase, error) {
	buf := blocks.Get().(*[blockSize]byte)
	defer blocks.Put(buf)
	block := buf[:]
	for {
		n, rerr := s.content.Read(block)
		if _, err := w.Write(block[:n]); err != nil {
			return PhaseData, err
		}
		if err := each(); err != nil {
			return PhaseData, err
		}
		if rerr == io.EOF {
			return "", nil
		}
		if rerr != nil {
			return PhaseContent, rerr
		}
	}
}

// commit is the last moment before the peer may take the message: the peer
// must not have answered yet, and the caller must still want it. If the peer
// refused early the connection is closed and that is the result.
func (s *sending) commit(ctx context.Context) error {
	spoke, err := s.c.pending(ctx)
	if err != nil {
		return s.c.fail(ctx, PhaseData, err)
	}
	if spoke {
		r, err := s.c.reply(ctx, PhaseData, time.Second)
		if err != nil {
			return err
		}
		if r.Code < 400 {
			return s.c.abort(PhaseData, ErrUnsolicited)
		}
		s.rest(Result{Reply: r, Phase: PhaseData})
		s.c.Close()
		return nil
	}
	if s.tx.Commit == nil {
		return nil
	}
	if err := s.tx.Commit(ctx); err != nil {
		return s.c.abort(PhaseDot, err)
	}
	return nil
}

// verdict reads the reply to the content, by LMTP one for each recipient that
// was taken (RFC 2033, section 4.2).
func (s *sending) verdict(ctx context.Context) error {
	for n, i := range s.open {
		r, err := s.c.reply(ctx, PhaseDot, s.c.opts.Timeouts.Dot)
		if err == nil && r.Code/100 == 3 {
			err = s.c.abort(PhaseDot, odd(r))
		}
		if err != nil {
			if e, ok := errors.AsType[*Error](err); ok {
				e.InDoubt = true
			}
			return err
		}
		if !s.c.opts.LMTP || r.Code == 421 {
			s.settle(s.open[n:], r)
			break
		}
		s.settle([]int{i}, r)
	}
	s.c.dirty = false
	return nil
}

// settle notes what the peer says of the content for recipients.
func (s *sending) settle(rcpts []int, r *mail.Reply) {
	result := Result{Reply: r, Phase: PhaseDot}
	if s.tx.Taken != nil && result.Accepted() {
		s.tx.Taken(rcpts)
	}
	for _, i := range rcpts {
		s.results[i] = result
	}
}
