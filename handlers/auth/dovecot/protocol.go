package dovecot

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The protocol is Dovecot's "auth-client", version 1.x: lines of fields with
// tabs between them, in which control characters are escaped by \001.
const (
	major    = "1"
	maxLine  = 16 << 10
	maxLines = 1000 // of the handshake
)

var (
	escaper   = strings.NewReplacer("\x00", "\x010", "\x01", "\x011", "\t", "\x01t", "\r", "\x01r", "\n", "\x01n")
	unescaper = strings.NewReplacer("\x010", "\x00", "\x011", "\x01", "\x01t", "\t", "\x01r", "\r", "\x01n", "\n")
)

// An answer is what Dovecot says of a request.
type answer struct {
	kind   string // OK, FAIL, CONT
	fields map[string]string
}

func (a answer) has(name string) bool {
	_, ok := a.fields[name]
	return ok
}

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, maxLine) }

// readLine returns the fields of a line, as they are escaped.
func readLine(r *bufio.Reader) ([]string, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errors.New("a line is too long")
	case err != nil:
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(line), "\n"), "\t"), nil
}

// readHandshake reads what the server says first.
func readHandshake(r *bufio.Reader) error {
	var version, plain bool
	for range maxLines {
		f, err := readLine(r)
		if err != nil {
			return err
		}
		switch {
		case f[0] == "VERSION":
			if len(f) < 2 || f[1] != major {
				return fmt.Errorf("its protocol is not of version %s", major)
			}
			version = true
		case f[0] == "MECH" && len(f) > 1:
			plain = plain || f[1] == "PLAIN"
		case f[0] == "DONE":
			if !version || !plain {
				return errors.New("it does not offer PLAIN; is this its socket for clients?")
			}
			return nil
		}
	}
	return errors.New("its handshake has no end")
}

// parseAnswer reads a line that may be an answer; other lines have the id 0.
func parseAnswer(f []string) (id uint32, a answer) {
	if len(f) < 2 || f[0] != "OK" && f[0] != "FAIL" && f[0] != "CONT" {
		return 0, a
	}
	n, err := strconv.ParseUint(f[1], 10, 32)
	if err != nil {
		return 0, a
	}
	a = answer{kind: f[0], fields: map[string]string{}}
	for _, p := range f[2:] {
		name, value, _ := strings.Cut(p, "=")
		a.fields[name] = unescaper.Replace(value)
	}
	return uint32(n), a
}

// formatRequest is the line of a request.
func formatRequest(id uint32, params []string, response string) string {
	f := []string{"AUTH", strconv.FormatUint(uint64(id), 10), "PLAIN"}
	for _, p := range params {
		f = append(f, escaper.Replace(p))
	}
	// The response is the last, whatever may be in it.
	return strings.Join(append(f, "resp="+base64.StdEncoding.EncodeToString([]byte(response))), "\t") + "\n"
}
