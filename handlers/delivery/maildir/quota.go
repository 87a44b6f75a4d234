package maildir

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
)

// A quota is how much a Maildir may have; zero is no bound. What it has is counted
// in the file maildirsize, as Maildir++ has it, which other programs write as well.
type quota struct {
	bytes, count int64
	full         *mail.Reply
	store        *mda.Store
}

// Replies where there is no room.
var (
	errFull    = mail.Refuse(552, "5.2.2", "mailbox is full")
	errFullNow = mail.Refuse(452, "4.2.2", "mailbox is full")
)

const (
	sizeFile = "maildirsize"
	// maxSizeFile is its size, in octets, from which on it is to be written anew,
	// and oldSizeFile the age at which one is believed that says the quota is used up.
	maxSizeFile = 5120
	oldSizeFile = 15 * time.Minute
)

// usage is what a Maildir has.
type usage struct{ bytes, count int64 }

func (q *quota) exceeded(u usage) bool {
	return q.bytes > 0 && u.bytes > q.bytes || q.count > 0 && u.count > q.count
}

// first is the first line of the file.
func (q *quota) first() string {
	var b strings.Builder
	if q.bytes > 0 {
		fmt.Fprintf(&b, "%dS", q.bytes)
	}
	if q.count > 0 {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%dC", q.count)
	}
	return b.String()
}

// admit is an error if there is no room for a message of size octets.
func (q *quota) admit(root *os.Root, size int64) error {
	u, fresh, err := q.stored(root)
	if err == nil && q.exceeded(usage{u.bytes + size, u.count + 1}) && !fresh {
		err = errRecount
	}
	if errors.Is(err, errRecount) {
		u, err = q.recount(root)
	}
	if err != nil {
		return err
	}
	if q.exceeded(usage{u.bytes + size, u.count + 1}) {
		return q.full
	}
	return nil
}

var errRecount = errors.New("the file cannot be believed")

// stored reads the file. It is fresh if it was written a moment ago.
func (q *quota) stored(root *os.Root) (u usage, fresh bool, err error) {
	st, err := root.Lstat(sizeFile)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() { // such as a pipe, which would hang us
		return u, false, errRecount
	}
	if err != nil {
		return u, false, err
	}
	f, err := root.Open(sizeFile)
	if err != nil {
		return u, false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSizeFile))
	if err != nil {
		return u, false, err
	}
	u, ok := q.parse(b)
	if !ok || len(b) == maxSizeFile {
		return u, false, errRecount
	}
	return u, time.Since(st.ModTime()) < oldSizeFile, nil
}

// parse adds up the lines of the file, the first of which is the quota.
func (q *quota) parse(b []byte) (u usage, ok bool) {
	head, rest, _ := strings.Cut(string(b), "\n")
	if head != q.first() {
		return u, false
	}
	for line := range strings.Lines(rest) {
		words := strings.Fields(line)
		if len(words) != 2 {
			return u, false
		}
		size, err1 := strconv.ParseInt(words[0], 10, 64)
		count, err2 := strconv.ParseInt(words[1], 10, 64)
		if err1 != nil || err2 != nil {
			return u, false
		}
		u.bytes, u.count = u.bytes+size, u.count+count
	}
	return u, u.bytes >= 0 && u.count >= 0
}

// recount adds up all messages of all folders but the one for the trash, and
// writes the file anew.
func (q *quota) recount(root *os.Root) (u usage, err error) {
	folders := []string{""}
	err = names(root, ".", func(n string) {
		if len(n) > 1 && n[0] == '.' && n != ".." && n != ".Trash" {
			folders = append(folders, n+"/")
		}
	})
	if err != nil {
		return u, err
	}
	for _, folder := range folders {
		for _, sub := range []string{"new", "cur"} {
			err := names(root, folder+sub, func(n string) {
				if size, ok := sizeOf(root, folder+sub+"/"+n); ok {
					u.bytes, u.count = u.bytes+size, u.count+1
				}
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return u, err
			}
		}
	}
	tmp := "tmp/" + sizeFile + "." + rand.Text()[:8]
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%d %d\n", q.first(), u.bytes, u.count)
	err = q.write(root, tmp, b.Bytes())
	if err == nil {
		err = root.Rename(tmp, sizeFile)
	}
	if err != nil {
		_ = root.Remove(tmp)
	}
	return u, err
}

func (q *quota) write(root *os.Root, name string, b []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := q.store.Dress(f); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Close()
}

// sizeOf is the size of a message, from its name if that tells.
func sizeOf(root *os.Root, path string) (int64, bool) {
	if _, rest, ok := strings.Cut(path, ",S="); ok {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
			return n, true
		}
	}
	st, err := root.Lstat(path)
	if err != nil || !st.Mode().IsRegular() {
		return 0, false // a reader has moved it
	}
	return st.Size(), true
}

// add counts a message that was delivered. A file that cannot be written is
// counted anew some time.
func (q *quota) add(root *os.Root, size int64) {
	if st, err := root.Lstat(sizeFile); err != nil || !st.Mode().IsRegular() {
		return
	}
	f, err := root.OpenFile(sizeFile, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = fmt.Fprintf(f, "%d 1\n", size)
}
