// Package file is a table in a text file.
package file

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/watchfile"
)

func init() { caddy.RegisterModule(new(Table)) }

// Table is a table in a text file, an entry on each line:
//
//	key: value, value
//	key value
//	key
//
// A line that begins with white space continues the one before it. Lines that
// begin with "#" and empty ones are skipped. A key that holds a colon, a comma
// or white space, and a value that holds a comma, stand in double quotes.
//
// The file is read again soon after it has changed; no reload is needed. While
// a new version has an error, the old one stays in force and the error is in the
// log. Replace the file by renaming another one over it, so that it is never
// read half written.
type Table struct {
	// Path is the file. It must exist when the configuration is loaded.
	Path string `json:"path,omitempty"`

	// CaseSensitive tells keys apart that differ in case only. Default: false.
	CaseSensitive bool `json:"case_sensitive,omitempty"`

	// MaxSize is how many octets the file may have. Default: 64 MiB.
	MaxSize int64 `json:"max_size,omitempty"`

	file *watchfile.File[map[string][]string]
}

// CaddyModule returns the Caddy module information.
func (*Table) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.file", New: func() caddy.Module { return new(Table) }}
}

// Provision reads the file.
func (t *Table) Provision(ctx caddy.Context) (err error) {
	if t.MaxSize == 0 {
		t.MaxSize = 64 << 20
	}
	if t.Path, err = caddy.NewReplacer().ReplaceOrErr(t.Path, true, true); err != nil {
		return err
	}
	t.file, err = watchfile.Open(t.Path, t.MaxSize, t.parse, plainlog.New(ctx.Slogger()))
	return err
}

// Lookup returns the values of a key.
func (t *Table) Lookup(_ context.Context, key string) ([]string, bool, error) {
	v, ok := t.file.Value()[t.key(key)]
	return v, ok, nil
}

func (t *Table) key(k string) string {
	k = mail.Key(k)
	if t.CaseSensitive {
		return k
	}
	return strings.ToLower(k)
}

func (t *Table) parse(b []byte) (map[string][]string, error) {
	entries := map[string][]string{}
	err := watchfile.Lines(b, func(_ int, line string) error {
		key, values, err := parseLine(line)
		if err != nil {
			return err
		}
		key = t.key(key)
		if _, ok := entries[key]; ok {
			return fmt.Errorf("key '%s' is there twice", key)
		}
		entries[key] = values
		return nil
	})
	return entries, err
}

func parseLine(line string) (key string, values []string, err error) {
	key, rest, err := word(line, func(r rune) bool { return r == ':' || unicode.IsSpace(r) })
	if err != nil {
		return "", nil, err
	}
	if key == "" {
		return "", nil, fmt.Errorf("no key")
	}
	rest = strings.TrimPrefix(strings.TrimSpace(rest), ":")
	for rest = strings.TrimSpace(rest); rest != ""; {
		var v string
		if v, rest, err = word(rest, func(r rune) bool { return r == ',' }); err != nil {
			return "", nil, err
		}
		if v = strings.TrimSpace(v); v != "" {
			values = append(values, v)
		}
		rest = strings.TrimSpace(rest)
		if more, ok := strings.CutPrefix(rest, ","); ok {
			rest = strings.TrimSpace(more)
		} else if rest != "" {
			return "", nil, fmt.Errorf("no comma behind a quoted value")
		}
	}
	return key, values, nil
}

// word cuts what is quoted at the beginning of s, or what comes before end. A
// quote may be followed by the rest of a mailbox, as in "a b"@example.org, to
// which its quotes belong then.
func word(s string, end func(rune) bool) (w, rest string, err error) {
	n := 0
	if s[0] == '"' {
		if n = quoted(s); n < 0 {
			return "", "", fmt.Errorf("quote not closed")
		}
	}
	m := strings.IndexFunc(s[n:], end)
	if m < 0 {
		m = len(s) - n
	}
	w, rest = s[:n+m], s[n+m:]
	if n > 0 && strings.TrimSpace(w[n:]) == "" {
		w = unquote(w[1 : n-1])
	}
	return w, rest, nil
}

// quoted returns the length of the quoted string at the beginning of s.
func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// UnmarshalCaddyfile sets up the table from Caddyfile tokens. Syntax:
//
//	file <path> {
//		case_sensitive
//		max_size <size>
//	}
func (t *Table) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&t.Path) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"case_sensitive": caddyopt.Flag(&t.CaseSensitive),
		"max_size":       caddyopt.Size(&t.MaxSize),
	})
}

var (
	_ caddy.Provisioner     = (*Table)(nil)
	_ caddyfile.Unmarshaler = (*Table)(nil)
)
