package mbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// idField is the name of the field by which a message is found again.
const idField = "X-Delivery-Id"

// An item is a message for one mailbox. It has the same octets at every attempt.
type item struct {
	first   string // its From line
	id      string // its idField, as a line
	content mda.Content
	quote   string
}

// newItem is the message of a delivery, for a recipient as the path has him.
func newItem(d *queue.Delivery, folded, to mail.Address, quote string) *item {
	sum := sha256.Sum256([]byte(d.ID + "\x00" + folded.String()))
	c := mda.ContentFor(d, to)
	c.Message.Header.Remove(idField)
	id := fmt.Sprintf("%x", sum[:16])
	c.Message.Header.Prepend(idField, id)
	return &item{first: mda.FromLine(d.Envelope.From, d.Queued) + "\n", id: idField + ": " + id, content: c, quote: quote}
}

// copy writes the message as it is in a file.
func (it *item) copy(ctx context.Context, w io.Writer) error {
	if _, err := io.WriteString(w, it.first); err != nil {
		return err
	}
	q := newQuoter(w, it.quote)
	if err := it.content.Copy(ctx, q); err != nil {
		return err
	}
	return q.finish()
}

// A file is a mailbox that is open and locked.
type file struct {
	*os.File
	root *os.Root
	made bool
}

// append delivers. What it returns nil for is on disk. Otherwise the file is as
// it was.
func (f *file) append(ctx context.Context, it *item, repeated bool) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	end := st.Size()
	if repeated && end > 0 {
		found, at, err := f.find(ctx, it, end)
		switch {
		case err != nil:
			return err
		case found:
			return f.settle() // who delivered it may not have come that far
		case at < end: // it broke off there
			if err := f.Truncate(at); err != nil {
				return err
			}
			end = at
		}
	}
	if err := f.write(ctx, it, end); err != nil {
		return errors.Join(err, f.Truncate(end), f.Sync())
	}
	return nil
}

// settle makes what is in the file durable, and its name.
func (f *file) settle() error {
	if err := f.Sync(); err != nil {
		return err
	}
	if f.made {
		return mda.SyncDir(f.root, ".")
	}
	return nil
}

// write writes the message behind what is there, of which somebody else may have
// left the last line open.
func (f *file) write(ctx context.Context, it *item, end int64) error {
	w := &offsetWriter{f.File, end}
	gap, err := f.gap(end)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, gap); err != nil {
		return err
	}
	if err := it.copy(ctx, w); err != nil {
		return err
	}
	return f.settle()
}

// gap is what lacks for an empty line at the end.
func (f *file) gap(end int64) (string, error) {
	if end == 0 {
		return "", nil
	}
	tail := make([]byte, min(end, 2))
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil {
		return "", err
	}
	switch {
	case string(tail) == "\n\n":
		return "", nil
	case tail[len(tail)-1] == '\n':
		return "\n", nil
	}
	return "\n\n", nil
}

// offsetWriter writes from a place in a file on.
type offsetWriter struct {
	f   *os.File
	off int64
}

// Write implements io.Writer.
func (w *offsetWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.off)
	w.off += int64(n)
	return n, err
}
