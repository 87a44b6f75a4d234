package maildir

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
)

// What becomes of tags.
const (
	tagsExisting = "existing"
	tagsCreate   = "create"
)

// folderFor is the name of a tag's folder, "" for the mailbox itself. No tag makes
// a name that is hidden from readers, or another's.
func (a *Agent) folderFor(tag string) string {
	if a.TagFolders == "" || tag == "" || len(tag) > maxTag || !placeholder.Harmless(tag) || strings.HasSuffix(tag, ".") || strings.Contains(tag, "..") {
		return ""
	}
	for _, c := range []byte(tag) {
		if c <= ' ' || c >= 0x7f || c == '&' || c == '~' || c == ':' { // readers have names in a coding of their own
			return ""
		}
	}
	if a.lower() {
		tag = strings.ToLower(tag)
	}
	return "." + tag
}

// maxTag is the longest tag that makes a folder, in octets.
const maxTag = 64

// openFolder opens a folder of a Maildir, nil if there is none and none is to be
// made.
func (a *Agent) openFolder(top *os.Root, name string) (*os.Root, error) {
	st, err := top.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && a.TagFolders == tagsExisting, err == nil && !st.IsDir():
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		if err := a.store.Mkdir(top, name); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	folder, err := top.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if err := a.mark(folder); err != nil {
		mda.Shut(folder)
		return nil, err
	}
	return folder, nil
}

// mark makes the file by which Maildir++ knows that a directory is a folder.
func (a *Agent) mark(folder *os.Root) error {
	if _, err := folder.Lstat("maildirfolder"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := folder.OpenFile("maildirfolder", os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.store.Dress(f)
}
