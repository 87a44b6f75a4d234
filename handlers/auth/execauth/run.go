package execauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const (
	maxOutput = 64 << 10 // octets
	// lingering is how long output may stay open when the program has ended.
	lingering = time.Second
)

// run returns the exit code and the output of the program.
func (s *Source) run(ctx context.Context, user, password string) (code int, out []byte, err error) {
	c := login.ClientOf(ctx)
	ip := ""
	if c.Remote.IsValid() {
		ip = c.Remote.Addr().String()
	}
	var stdout output
	cmd := exec.CommandContext(ctx, s.command[0], s.command[1:]...) //nolint:gosec // the command is the configuration's
	cmd.Env = append([]string{"SMTP_REMOTE_IP=" + ip, "SMTP_MECHANISM=" + c.Mechanism, "TCPREMOTEIP=" + ip}, s.env...)
	cmd.Dir = "/"
	cmd.Stdout = &stdout
	cmd.WaitDelay = lingering
	alone(cmd)
	switch s.Input {
	case inputCheckpassword:
		r, err := filled(user + "\x00" + password + "\x00" + strconv.FormatInt(time.Now().Unix(), 10) + "\x00")
		if err != nil {
			return 0, nil, err
		}
		defer r.Close()
		cmd.ExtraFiles = []*os.File{r} // from 3 on
	case inputNull:
		cmd.Stdin = strings.NewReader(strings.Join([]string{user, password, ip, c.Mechanism, ""}, "\x00"))
	default:
		cmd.Stdin = strings.NewReader(strings.Join([]string{user, password, ip, c.Mechanism, ""}, "\n"))
	}
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		_ = kill(cmd) // what it left behind
	}
	switch exit, ok := errors.AsType[*exec.ExitError](err); {
	case ctx.Err() != nil:
		return 0, nil, fmt.Errorf("the program was killed: %w", context.Cause(ctx))
	case stdout.full:
		return 0, nil, errors.New("the program writes too much")
	case ok && exit.Exited():
		return exit.ExitCode(), nil, nil
	case ok:
		return 0, nil, errors.New("the program was ended by a signal")
	case err != nil:
		return 0, nil, err
	}
	return 0, bytes.TrimSpace(stdout.b.Bytes()), nil
}

// filled is a pipe that holds a text, which must fit in.
func filled(text string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.WriteString(text)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// An output takes so much and no more.
type output struct {
	b    bytes.Buffer
	full bool
}

// Write fails when there is too much.
func (o *output) Write(p []byte) (int, error) {
	if o.b.Len()+len(p) > maxOutput {
		o.full = true
		return 0, errors.New("too much")
	}
	return o.b.Write(p)
}
