package smtpapp

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"golang.org/x/term"

	"github.com/caddymail/caddy-smtp/smtpapp/userfile"
)

// newPassword is what the flags say: made up, from standard input, or from the
// terminal.
func newPassword(fl caddycmd.Flags, app bool, prompt string) (password string, made bool, err error) {
	switch {
	case fl.Bool("password-stdin"):
		password, err = readPassword(os.Stdin)
	case fl.Bool("generate") || app:
		return userfile.NewPassword(), true, nil
	case !term.IsTerminal(int(os.Stdin.Fd())):
		return "", false, errors.New("standard input is no terminal: give --password-stdin or --generate")
	default:
		password, err = askPassword(prompt)
	}
	return password, false, err
}

// readPassword reads one line.
func readPassword(r io.Reader) (string, error) {
	const most = 4096
	line, err := bufio.NewReader(io.LimitReader(r, most)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if line == "" {
		return "", errors.New("no password on standard input")
	}
	return line, nil
}

// askPassword asks twice. The echo is off before the prompt is seen, so that a
// program which answers prompts shows no password; an interrupt is an answer like
// another, so the terminal is given back as it was.
func askPassword(prompt string) (string, error) {
	fd := int(os.Stdin.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, state) }()
	screen := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{os.Stdin, os.Stderr}, "")
	first, err := screen.ReadPassword(prompt)
	if err != nil {
		return "", interrupted(err)
	}
	second, err := screen.ReadPassword("Again: ")
	if err != nil {
		return "", interrupted(err)
	}
	if first != second {
		return "", errors.New("the two are not the same")
	}
	if first == "" {
		return "", errors.New("no password")
	}
	return first, nil
}

// interrupted says what the end of the input is at a terminal: Ctrl-C or Ctrl-D.
func interrupted(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("interrupted")
	}
	return err
}
