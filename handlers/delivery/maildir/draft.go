package maildir

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/mda"
)

// A draft is the file of a message that has no name in new yet.
type draft struct {
	*os.File
	tmp  string // its name, if it has any
	size int64
}

// discard closes a draft and takes away the name that it had until here.
func (m *mailbox) discard(d *draft) {
	_ = d.Close()
	if d.tmp != "" {
		_ = m.root.Remove(d.tmp) // whoever comes across it knows that tmp may be cleared
	}
}

// draft writes a message into a file, one in tmp or one without a name.
func (m *mailbox) draft(ctx context.Context, it *item, nameless bool) (d *draft, err error) {
	d = new(draft)
	if nameless {
		d.File, err = createNameless(m.new)
	} else {
		d.tmp = "tmp/" + it.name + "." + rand.Text()[:8]
		d.File, err = m.root.OpenFile(d.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if err := m.write(ctx, d, it); err != nil {
		m.discard(d)
		return nil, err
	}
	return d, nil
}

// write writes the message.
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
	if err == nil {
		d.size = st.Size()
	}
	return err
}

// publish gives the draft its name in new, for good. If that name is there, the
// message was delivered before.
func (m *mailbox) publish(d *draft, name string) error {
	if d.tmp == "" {
		return m.publishNameless(d, name)
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if err := m.link(d, name); err != nil {
		return err
	}
	return mda.Sync(m.new)
}

// publishNameless does so with one sync, which has the name with the file. What
// the file has is written before, lest the name be there without it.
func (m *mailbox) publishNameless(d *draft, name string) error {
	if err := settle(d.File); err != nil {
		return errNameless
	}
	switch err := link(d.File, m.new, name); {
	case errors.Is(err, fs.ErrExist):
		return mda.Sync(m.new) // who delivered it may not have come that far
	case err != nil:
		return errNameless
	}
	return d.Sync()
}

// errNameless says that a draft without a name cannot be given one here, such as
// for want of /proc or of a permission that renaming does not need.
var errNameless = errors.New("a file without a name stays so")

// link gives a draft that has a name its name in new.
func (m *mailbox) link(d *draft, name string) error {
	err := m.root.Link(d.tmp, "new/"+name)
	switch {
	case err == nil, errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EMLINK), errors.Is(err, errors.ErrUnsupported):
		return m.rename(d.tmp, "new/"+name) // the file system has no links
	}
	return err
}

func (m *mailbox) rename(tmp, name string) error {
	if _, err := m.root.Lstat(name); err == nil {
		return nil
	}
	return m.root.Rename(tmp, name)
}
