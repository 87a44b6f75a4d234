package pipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

const (
	maxOutput = 4 << 10 // octets that are kept of each output
	// lingering is how long outputs may stay open when the program has ended.
	lingering = time.Second
)

// A result is what a run came to.
type result struct {
	code           int
	late           bool  // it took too long
	err            error // it ended otherwise
	stdout, stderr []byte
}

// run runs the program to its end.
func (a *Agent) run(ctx context.Context, argv []string, d *queue.Delivery, r *mail.Recipient) result {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.Timeout))
	defer cancel()
	in, out, err := os.Pipe()
	if err != nil {
		return result{err: err}
	}
	var stdout, stderr head
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // the command is the configuration's
	cmd.Env = append(facts(d, r), a.env...)
	cmd.Dir = a.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &stdout, &stderr
	cmd.WaitDelay = lingering
	alone(cmd, a.owner)
	err = cmd.Start()
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		return result{err: err}
	}
	fed := make(chan error, 1)
	ended := make(chan struct{})
	go func() { fed <- a.feed(ctx, out, cmd, ended, d, r) }()
	err = cmd.Wait()
	close(ended)
	_ = out.Close() // whoever still holds the other end reads no more
	if errors.Is(err, exec.ErrWaitDelay) {
		_ = kill(cmd) // what it left behind
		err = nil
	}
	res := judgeEnd(err, <-fed)
	res.stdout, res.stderr = stdout.b, stderr.b
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && res.err != nil {
		res.late = true
	}
	return res
}

// feed writes the message. A message that cannot be read to its end is not
// shown to the program as one that ends there: it is killed first.
func (a *Agent) feed(ctx context.Context, w *os.File, cmd *exec.Cmd, ended <-chan struct{}, d *queue.Delivery, r *mail.Recipient) error {
	c := mda.ContentFor(d, r.Address)
	c.AsIs = c.AsIs || a.CRLF
	eol := "\n"
	if a.CRLF {
		eol = "\r\n"
	}
	if a.FromLine {
		if _, err := io.WriteString(w, mda.FromLine(d.Envelope.From, time.Now())+eol); err != nil {
			return nil
		}
	}
	err := c.Copy(ctx, w)
	if _, bad := errors.AsType[mda.ContentError](err); bad {
		_ = kill(cmd)
		<-ended
		return err
	}
	_ = w.Close() // and if it doesn't want to read, that is its business
	return nil
}

// judgeEnd is the result of a program that has ended.
func judgeEnd(err, fed error) result {
	exit, isExit := errors.AsType[*exec.ExitError](err)
	switch {
	case fed != nil:
		return result{code: -1, err: fmt.Errorf("reading the message: %w", fed)}
	case isExit && exit.Exited():
		return result{code: exit.ExitCode()}
	case err != nil:
		return result{code: -1, err: err}
	}
	return result{}
}

// facts are the variables that tell of a message.
func facts(d *queue.Delivery, r *mail.Recipient) []string {
	e := d.Envelope
	return []string{
		"SENDER=" + plain(e.From.String()), "RECIPIENT=" + plain(r.Address.String()), "ORIGINAL_RECIPIENT=" + plain(r.Given.String()),
		"LOCAL=" + plain(r.Address.Local), "EXTENSION=" + plain(r.Detail()), "DOMAIN=" + plain(r.Address.Domain),
		"QUEUE_ID=" + plain(d.ID), "CLIENT_ADDRESS=" + plain(e.ClientIP), "CLIENT_HELO=" + plain(e.Hello), "SASL_USERNAME=" + plain(e.AuthUser),
	}
}

// A head takes everything and keeps the beginning.
type head struct{ b []byte }

// Write never fails.
func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), maxOutput-len(h.b))]...)
	return len(p), nil
}
