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

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// A mailbox is an open Maildir.
type mailbox struct {
	root  *os.Root // where messages go, which may be a folder
	new   *os.File // its directory of that name
	top   *os.Root
	store *mda.Store
	quota *quota // nil for no bounds

	ordered     bool   // its file system keeps the order of what is done to a file
	rel, folder string // where it is, below the store; the folder is as it was asked for
}

// shut closes its directories.
func (m *mailbox) shut() {
	if m.new != nil {
		_ = m.new.Close()
	}
	if m.root != m.top {
		mda.Shut(m.root)
	}
	mda.Shut(m.top)
}

// mailbox opens the Maildir at rel, and a folder of it unless that is "". What is
// missing of it is made.
func (a *Agent) mailbox(rel, name string) (*mailbox, error) {
	top, err := a.store.Open(rel)
	if err != nil {
		return nil, err
	}
	m := &mailbox{root: top, top: top, store: &a.store, quota: a.quota, rel: rel, folder: name}
	if err = a.complete(top); err == nil {
		if name != "" {
			var folder *os.Root
			if folder, err = a.openFolder(top, name); folder != nil {
				m.root = folder
				err = a.complete(folder)
			}
		}
	}
	if err == nil {
		if m.new, err = m.root.Open("new"); err == nil {
			m.ordered = a.stage.covers(m.new)
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
	return fmt.Sprintf("%d.Q%x.%s", d.Queued.Unix(), sum[:16], inName.Replace(host))
}

// inName is for what a name of a Maildir may not have.
var inName = strings.NewReplacer("/", `\057`, ":", `\072`)

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
	d, err := m.draft(ctx, m.root, "tmp/"+it.name+"."+rand.Text()[:8], it)
	if err != nil {
		return err
	}
	defer d.discard()
	if err := m.publish(d, it.name); err != nil {
		return err
	}
	if m.quota != nil {
		m.quota.add(m.top, d.size)
	}
	return nil
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
