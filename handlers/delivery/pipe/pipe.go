// Package pipe hands messages to a program.
package pipe

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(Agent)) }

// Agent hands each message to a program, once for each recipient, without a
// shell. The program reads the message from standard input, with Return-Path and
// Delivered-To fields on top and line feeds for line ends, and says by its exit
// code what became of it:
//
//	0             delivered
//	65            the message is at fault: failed, 5.6.0
//	67            there is no such user: failed, 5.1.1
//	68            there is no such host: failed, 5.1.2
//	69            not here: failed, 5.3.0
//	76            failed, 5.5.0
//	77            not allowed: failed, 5.7.0
//	100           failed, 5.3.0 (as with qmail)
//	75, 111       tried again later
//
// These are those of sysexits.h and qmail. Any other is taken for a fault of the
// program or its surroundings, and so is a signal: the log has what was written
// and the message is tried again later. With one of these codes the first line
// that the program wrote to standard error, or else to standard output, is what
// the sender is told; it may begin with an enhanced status code of the same class,
// such as 5.7.1.
//
// The environment is PATH, what Env adds, HOME, USER and LOGNAME if a user is
// named, and the facts: SENDER (empty for the null reverse-path), RECIPIENT,
// ORIGINAL_RECIPIENT (as the client named it), LOCAL, EXTENSION (the tag),
// DOMAIN, QUEUE_ID, CLIENT_ADDRESS, CLIENT_HELO and SASL_USERNAME. They come from
// strangers and may have any printable character in them.
//
// When the process of the server is killed, what was under way is delivered
// again.
type Agent struct {
	// Command is the program, an absolute path, and its arguments. {env.*} and
	// {file.*} in them are put in when the configuration is loaded; for each
	// recipient {smtp.rcpt}, {smtp.rcpt.local}, {smtp.rcpt.domain},
	// {smtp.rcpt.tag}, {smtp.rcpt.given}, {smtp.mail.from},
	// {smtp.mail.from.local}, {smtp.mail.from.domain}, {smtp.queue.id} and
	// {smtp.auth.user}. What they stand for is never more than a part of one
	// argument. A message for which one would make an argument begin with a
	// hyphen fails (5.1.3), since programs take that for an option; put -- and
	// the like before it, and prefix it, to have it anyway.
	Command []string `json:"command,omitempty"`

	// Env are further variables of its environment. {env.*} and {file.*} in the
	// values are put in when the configuration is loaded.
	Env map[string]string `json:"env,omitempty"`

	// User is who the program runs as, by name or number, and Group one group in
	// the place of all of the user's own. Only root can choose another user.
	// Default: the user that Caddy runs as, who must be named if that is root.
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`

	// Dir is the working directory. Default: /.
	Dir string `json:"dir,omitempty"`

	// FromLine puts a line "From sender date" on top, as in an mbox. Default:
	// false.
	FromLine bool `json:"from_line,omitempty"`

	// CRLF keeps the line ends of SMTP. Default: false, line feeds.
	CRLF bool `json:"crlf,omitempty"`

	// Exit says what exit codes mean, in the place of what is said above: each an
	// enhanced status code, such as "1": "5.7.1". One of class 2 is delivered, of
	// class 4 tried later, of class 5 failed.
	Exit map[string]string `json:"exit,omitempty"`

	// Concurrency is how many run at a time. Default: 10.
	Concurrency int `json:"concurrency,omitempty"`

	// Timeout is how long one may run. Then it is killed with all processes of
	// its group, and the message is tried again later. Default: 5m.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	argv  []argument
	env   []string
	owner *mda.Owner // nil: as Caddy
	exits map[int]string
	slots chan struct{}
}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.pipe", New: func() caddy.Module { return new(Agent) }}
}

// Provision reads the command. Nothing is run until the first delivery.
func (a *Agent) Provision(ctx caddy.Context) (err error) {
	if a.Concurrency == 0 {
		a.Concurrency = 10
	}
	if a.Timeout == 0 {
		a.Timeout = caddy.Duration(5 * time.Minute)
	}
	if a.Dir == "" {
		a.Dir = "/"
	}
	if a.argv, err = parseCommand(a.Command); err != nil {
		return fmt.Errorf("pipe: command: %w", err)
	}
	if a.exits, err = parseExits(a.Exit); err != nil {
		return fmt.Errorf("pipe: exit: %w", err)
	}
	if a.User != "" {
		if a.owner, err = mda.LookupOwner(a.User, a.Group); err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
	}
	if err := a.fillEnv(); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	a.slots = make(chan struct{}, max(a.Concurrency, 1))
	env.FromContext(ctx).Offer(a)
	return nil
}

// fillEnv is the part of the environment that is the same for all messages.
func (a *Agent) fillEnv() error {
	a.env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if a.owner != nil {
		a.env = append(a.env, "HOME="+a.owner.Home, "USER="+a.owner.Name, "LOGNAME="+a.owner.Name)
	}
	own := len(a.env)
	for name, value := range a.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("env: '%s' is not the name of a variable", name)
		}
		value, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
		if err != nil {
			return fmt.Errorf("env '%s': %w", name, err)
		}
		a.env = append(a.env, name+"="+value)
	}
	slices.Sort(a.env[own:])
	return nil
}

// Validate checks the options.
func (a *Agent) Validate() error {
	switch {
	case a.Concurrency < 0:
		return errors.New("pipe: concurrency is negative")
	case a.Timeout < 0:
		return errors.New("pipe: timeout is negative")
	case !filepath.IsAbs(a.Dir):
		return errors.New("pipe: dir is not an absolute path")
	case a.Group != "" && a.User == "":
		return errors.New("pipe: a group is for a user")
	}
	return nil
}

// Start refuses a configuration that this process cannot fulfil.
func (a *Agent) Start() error {
	if err := permitted(a.owner); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	return nil
}

var errBusy = mail.Refuse(451, "4.3.2", "too many deliveries at a time")

// Deliver runs the program for each recipient, some at a time.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	n := len(d.Envelope.Recipients)
	statuses := make([]queue.Status, n)
	patience, cancel := context.WithTimeout(ctx, time.Duration(a.Timeout))
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for k := range n {
		i := (k + (d.Attempt-1)*cap(a.slots)) % n // so that nobody waits for the same ones each time
		if !a.turn(patience) {
			statuses[i] = mda.StatusFor(errBusy)
			continue
		}
		wg.Go(func() {
			defer func() { <-a.slots }()
			r := d.Envelope.Recipients[i]
			if statuses[i] = a.deliver(ctx, d, r); statuses[i].Action == queue.Delivered {
				d.Took(r)
			}
		})
	}
	wg.Wait()
	return statuses
}

// turn waits until one more may run.
func (a *Agent) turn(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case a.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// deliver runs the program. Its error is of ours, such as a program that is not
// there.
func (a *Agent) deliver(ctx context.Context, d *queue.Delivery, r *mail.Recipient) (s queue.Status) {
	log := d.Log.With("to", r.Address.String(), "program", a.argv[0].fixed())
	defer func() {
		if v := recover(); v != nil {
			log.Error("panic in a delivery", "panic", fmt.Sprint(v))
			s = mda.StatusFor(errProgram)
		}
	}()
	argv, err := expand(a.argv, d, r)
	if err != nil {
		return mda.StatusFor(mail.ReplyFor(err))
	}
	res := a.run(ctx, argv, d, r)
	reply := a.judge(res)
	if res.err != nil || !deliberate(a.exits, res.code) {
		log.Error("a program failed", "exit", res.code, "error", res.err, "wrote", firstLine(res.stderr, res.stdout))
	}
	return mda.StatusFor(reply)
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	pipe <program> <args...> {
//		env         <name> <value>
//		user        <name> [<group>]
//		dir         <path>
//		from_line
//		crlf
//		exit        <code> <enhanced status code>
//		concurrency <number>
//		timeout     <duration>
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if a.Command = d.RemainingArgs(); len(a.Command) == 0 {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"env":         pair(&a.Env),
		"user":        caddyopt.Once(a.readUser),
		"dir":         caddyopt.String(&a.Dir),
		"from_line":   caddyopt.Flag(&a.FromLine),
		"crlf":        caddyopt.Flag(&a.CRLF),
		"exit":        pair(&a.Exit),
		"concurrency": caddyopt.Int(&a.Concurrency, 1),
		"timeout":     caddyopt.Duration(&a.Timeout),
	})
}

func (a *Agent) readUser(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return d.ArgErr()
	}
	a.User = args[0]
	a.Group = strings.Join(args[1:], "")
	return nil
}

// pair is an option of a name and a value, each name once.
func pair(p *map[string]string) caddyopt.Option {
	return func(d *caddyfile.Dispenser) error {
		option := d.Val()
		var name, value string
		if !d.AllArgs(&name, &value) {
			return d.ArgErr()
		}
		if _, ok := (*p)[name]; ok {
			return d.Errf("%s '%s' is given twice", option, name)
		}
		if *p == nil {
			*p = map[string]string{}
		}
		(*p)[name] = value
		return nil
	}
}

var (
	_ queue.Agent           = (*Agent)(nil)
	_ env.Starter           = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.Validator       = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
