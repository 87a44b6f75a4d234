package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// chunks sends the content by BDAT (RFC 3030, section 2). Chunks are made of
// what leaves, not of what the content is said to be, so that its line ends
// can be put right on the way. All replies are in before the last chunk goes:
// a peer that refused one must not be handed the end.
func (s *sending) chunks(ctx context.Context) error {
	b := &bdat{s: s, window: 1, chunk: chunkBuffers.Get().(*bytes.Buffer)}
	defer b.free()
	if s.c.ext.Has("PIPELINING") {
		b.window = maxChunks
	}
	s.c.out.ctx, s.c.out.timeout = ctx, s.c.opts.Timeouts.Block
	n := &newliner{w: b.chunk}
	var w io.Writer = n
	if s.tx.Envelope.Body == mail.BodyBinary {
		w = b.chunk
	}
	phase, err := s.copy(w, func() error { return b.flush(ctx) })
	if err == nil {
		_ = n.finish() // into memory: cannot fail
		err = b.await(ctx, 0)
	}
	switch {
	case phase == PhaseContent:
		return s.c.abort(phase, err)
	case err != nil || b.refused != nil:
		return b.stop(ctx, err)
	}
	if err := s.commit(ctx); err != nil || s.c.broken {
		return err
	}
	if err := b.send(ctx, " LAST"); err != nil {
		return s.cut(ctx, PhaseDot, err)
	}
	return s.verdict(ctx)
}

// bdat is a content being sent in chunks.
type bdat struct {
	s       *sending
	chunk   *bytes.Buffer // not sent yet
	window  int           // how many replies may be due
	due     int
	refused *mail.Reply
	network error // of the last write, not yet explained
}

// chunkBuffers are worth keeping: each grows to more than a chunk.
var chunkBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (b *bdat) free() {
	b.chunk.Reset()
	chunkBuffers.Put(b.chunk)
	b.chunk = nil
}

// errRefused ends the reading of content that the peer doesn't want.
var errRefused = fmt.Errorf("chunk refused")

// flush sends the chunk if it is full.
func (b *bdat) flush(ctx context.Context) error {
	if b.chunk.Len() < chunkSize {
		return nil
	}
	if err := b.send(ctx, ""); err != nil {
		b.network = err
		return err
	}
	b.due++
	return b.await(ctx, b.window-1)
}

func (b *bdat) send(ctx context.Context, last string) error {
	c := b.s.c
	c.say(ctx, c.opts.Timeouts.Block, fmt.Sprintf("BDAT %d%s", b.chunk.Len(), last))
	if _, err := b.chunk.WriteTo(c.w); err != nil {
		return err
	}
	return c.w.Flush()
}

// await reads replies until no more than n are due, or all if one refuses.
func (b *bdat) await(ctx context.Context, n int) error {
	for b.due > n || b.due > 0 && b.refused != nil {
		r, err := b.s.c.reply(ctx, PhaseData, b.s.c.opts.Timeouts.Block)
		if err != nil {
			return err
		}
		b.due--
		switch {
		case r.Code/100 == 3:
			return b.s.c.abort(PhaseData, odd(r))
		case r.Code/100 != 2 && b.refused == nil:
			b.refused = r
		}
		if b.s.c.broken {
			b.due = 0
		}
	}
	if b.refused != nil {
		return errRefused
	}
	return nil
}

// stop ends a transaction whose content was not sent to its end.
func (b *bdat) stop(ctx context.Context, err error) error {
	switch {
	case b.refused != nil:
		b.s.rest(Result{Reply: b.refused, Phase: PhaseData})
		return nil
	case b.network != nil:
		return b.s.cut(ctx, PhaseData, b.network)
	}
	return err // of reply, which closed the connection
}
