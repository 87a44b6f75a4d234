package maildir

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// A mailbox is an open Maildir.
type mailbox struct {
	root  *os.Root // where messages go, which may be a folder
	top   *os.Root
	store *mda.Store
	quota *quota // nil for no bounds
}

// shut closes its directories.
func (m *mailbox) shut() {
	if m.root != m.top {
		mda.Shut(m.root)
	}
	mda.Shut(m.top)
}

// mailbox opens the Maildir at rel, and the folder of a tag. What is missing of
// it is made.
func (a *Agent) mailbox(rel, tag string) (*mailbox, error) {
	top, err := a.store.Open(rel)
	if err != nil {
		return nil, err
	}
	m := &mailbox{root: top, top: top, store: &a.store, quota: a.quota}
	if err = a.complete(top); err == nil {
		if name := a.folderFor(tag); name != "" {
			var folder *os.Root
			if folder, err = a.openFolder(top, name); folder != nil {
				m.root = folder
				err = a.complete(folder)
			}
		}
	}
	if err != nil {
		m.shut()
		return nil, err
	}
	return m, nil
}

// complete makes what a Maildir lacks.
func (a *Agent) complete(root *os.Root) error {
	for _, name := range []string{"tmp", "new", "cur"} {
		if err := a.store.Mkdir(root, name); err != nil {
			return err
		}
	}
	return nil
}

// An item is a message for one mailbox.
type item struct {
	name     string // in new
	repeated bool   // it may have been delivered before
	content  mda.Content
}

// fileName names a message in a mailbox. It is the same at every attempt, for
// it depends on the entry in the queue and the recipient, and so an attempt
// finds what one before it has done.
func fileName(d *queue.Delivery, to mail.Address, host string) string {
	sum := sha256.Sum256([]byte(d.ID + "\x00" + to.String()))
	host = strings.NewReplacer("/", `\057`, ":", `\072`).Replace(host)
	return fmt.Sprintf("%d.Q%x.%s", d.Queued.Unix(), sum[:16], host)
}

// put delivers. What it returns nil for is on disk, under its name in new or
// wherever a reader has moved it to.
func (m *mailbox) put(ctx context.Context, it *item) error {
	if it.repeated {
		if dir, err := m.find(it.name); err != nil {
			return err
		} else if dir != "" {
			return mda.SyncDir(m.root, dir) // who delivered it may not have come that far
		}
		m.sweep(it.name)
	}
	tmp, size, err := m.write(ctx, it)
	if err == nil && m.quota != nil {
		err = m.quota.admit(m.top, size)
	}
	if err == nil {
		err = m.publish(tmp, "new/"+it.name)
	}
	if tmp != "" {
		_ = m.root.Remove(tmp) // whoever comes across it knows that tmp may be cleared
	}
	if err != nil {
		return err
	}
	if m.quota != nil {
		m.quota.add(m.top, size)
	}
	return mda.SyncDir(m.root, "new")
}

// find returns the directory that has a message of that name, "" for none.
// Readers move mail from new to cur only, and put flags behind its name.
func (m *mailbox) find(name string) (dir string, err error) {
	if _, err := m.root.Lstat("new/" + name); err == nil {
		return "new", nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	err = names(m.root, "cur", func(n string) {
		if unique(n) == unique(name) {
			dir = "cur"
		}
	})
	return dir, err
}

// unique is what tells messages apart: a reader may leave nothing but that.
func unique(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	u, _, _ := strings.Cut(rest, ".")
	return u
}

// sweep removes what attempts that broke off have left.
func (m *mailbox) sweep(name string) {
	_ = names(m.root, "tmp", func(n string) {
		if strings.HasPrefix(n, name+".") {
			_ = m.root.Remove("tmp/" + n)
		}
	})
}

// names calls visit with the names in a directory, however many there are.
func names(root *os.Root, dir string, visit func(name string)) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			visit(n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// write writes the message to a file of its own in tmp. The name it returns is
// to be removed, error or not.
func (m *mailbox) write(ctx context.Context, it *item) (tmp string, size int64, err error) {
	tmp = "tmp/" + it.name + "." + rand.Text()[:8]
	f, err := m.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if m.store.Mode != 0o600 || m.store.Owner != nil {
		if err := m.store.Dress(f); err != nil {
			return tmp, 0, err
		}
	}
	if err := it.content.Copy(ctx, f); err != nil {
		return tmp, 0, err
	}
	if m.quota != nil {
		st, err := f.Stat()
		if err != nil {
			return tmp, 0, err
		}
		size = st.Size()
	}
	if err := f.Sync(); err != nil {
		return tmp, 0, err
	}
	return tmp, size, f.Close()
}

// publish gives the file its name in new. If that name is there, the message
// was delivered before.
func (m *mailbox) publish(tmp, name string) error {
	err := m.root.Link(tmp, name)
	switch {
	case err == nil, errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EMLINK), errors.Is(err, errors.ErrUnsupported):
		return m.rename(tmp, name) // the file system has no links
	}
	return err
}

func (m *mailbox) rename(tmp, name string) error {
	if _, err := m.root.Lstat(name); err == nil {
		return nil
	}
	return m.root.Rename(tmp, name)
}
