package maildir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/mda"
)

// A draft is the file of a message that is not where it belongs yet.
type draft struct {
	*os.File
	root *os.Root
	name string // in root, "" for none any more
	size int64
}

// discard closes a draft and takes away the name that it had until here.
func (d *draft) discard() {
	_ = d.Close()
	if d.name != "" {
		_ = d.root.Remove(d.name) // whoever comes across it knows that it may be cleared
	}
}

// draft writes a message to a new file.
func (m *mailbox) draft(ctx context.Context, root *os.Root, name string, it *item) (*draft, error) {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	d := &draft{File: f, root: root, name: name}
	if err := m.write(ctx, d, it); err != nil {
		d.discard()
		return nil, err
	}
	return d, nil
}

// write writes the message, if there is room for it.
func (m *mailbox) write(ctx context.Context, d *draft, it *item) error {
	if m.store.Mode != 0o600 || m.store.Owner != nil {
		if err := m.store.Dress(d.File); err != nil {
			return err
		}
	}
	if err := it.content.Copy(ctx, d); err != nil {
		return err
	}
	if m.quota == nil {
		return nil
	}
	st, err := d.Stat()
	if err != nil {
		return err
	}
	d.size = st.Size()
	return m.quota.admit(m.top, d.size)
}

// publish gives the draft its name in new, for good. If that name is there, the
// message was delivered before.
//
// Where the file system keeps order, one sync has the name with the file. What the
// file has is written before, lest the name be there without it.
func (m *mailbox) publish(d *draft, name string) error {
	write := d.Sync
	if m.ordered {
		write = func() error { return settle(d.File) }
	}
	if err := write(); err != nil {
		return err
	}
	there, err := m.link(d, name)
	switch {
	case err != nil:
		return err
	case m.ordered && !there:
		return d.Sync()
	}
	return mda.Sync(m.new) // who has delivered it may not have come that far
}

// link gives a draft its name in new too, and reports whether that was there.
func (m *mailbox) link(d *draft, name string) (there bool, err error) {
	err = m.root.Link(d.name, "new/"+name)
	switch {
	case errors.Is(err, fs.ErrExist):
		return true, nil
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EMLINK), errors.Is(err, errors.ErrUnsupported):
		return m.rename(d.name, "new/"+name) // the file system has no links
	}
	return false, err
}

func (m *mailbox) rename(tmp, name string) (there bool, err error) {
	if _, err := m.root.Lstat(name); err == nil {
		return true, nil
	}
	return false, m.root.Rename(tmp, name)
}
