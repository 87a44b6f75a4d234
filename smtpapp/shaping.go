package smtpapp

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/provider"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// Shaping is what destinations may have, as a table of rules. For each, the first
// rule that is for it is in force, and no other: what that does not say is as the
// queue has it. Rules for domains or mail hosts are looked at before those for
// agents alone or for all, and else in order.
type Shaping struct {
	// Providers adds rules for large providers, after those of the configuration. A
	// rule of the name of one of them (gmail, outlook, microsoft365, yahoo, icloud,
	// comcast, gmx, t-online, orange, proofpoint, mimecast) takes its place: what
	// it does not say stays, and its replies come first. The figures are cautious
	// guesses, no promises of the providers. Default: false.
	Providers bool `json:"providers,omitempty"`

	// Rules are looked at in this order.
	Rules []Rule `json:"rules,omitempty"`
}

// A Rule is what some destinations may have.
type Rule struct {
	// Name is of your choice, in logs and metrics. What was counted under it goes
	// on to count after a reload.
	Name string `json:"name,omitempty"`

	// Domains are the recipients' domains that it is for: "example.org",
	// "*.example.org" for those below, "*" for all. Default: none; all if there
	// is no mx either.
	Domains []string `json:"domains,omitempty"`

	// MX are mail hosts, in the same form: the rule is for every domain that has
	// one of them among its MX records, and for mail to a smarthost of that name.
	// Default: none.
	MX []string `json:"mx,omitempty"`

	// Agents are the agents that it is for, with "*" for any run of characters.
	// Default: all.
	Agents []string `json:"agents,omitempty"`

	// Sources are the sources of pools that it is for, each as "pool/192.0.2.1",
	// with "*" as in Agents. Default: all.
	Sources []string `json:"sources,omitempty"`

	// Count says what the limits of the rule are for: "each" destination of each
	// agent by itself, or all of them "together". Each source of a pool has limits
	// of its own. Default: each.
	Count string `json:"count,omitempty"`

	// Concurrency is how many attempts run at once, and FirstConcurrency how many
	// do while a destination has taken nothing yet. Default: as the queue's
	// per_destination.
	Concurrency      int `json:"concurrency,omitempty"`
	FirstConcurrency int `json:"first_concurrency,omitempty"`

	// ConnectionsPerAddress is how many connections there may be to one address of
	// a mail host, from one address of ours. Default: no limit.
	ConnectionsPerAddress int `json:"connections_per_address,omitempty"`

	// MessagesPerConnection is how many messages go over one connection. Default:
	// 100.
	MessagesPerConnection int `json:"messages_per_connection,omitempty"`

	// Messages is how many messages may be sent in any time of a length, each as
	// "100/1m"; a message that is tried counts. A message to several recipients
	// that share an attempt is one. Default: no limit.
	Messages []string `json:"messages,omitempty"`

	// Recipients is the same for recipients.
	Recipients []string `json:"recipients,omitempty"`

	// Retry, Expire and ExpireNull are as those of the queue. Default: these.
	Retry      []caddy.Duration `json:"retry,omitempty"`
	Expire     caddy.Duration   `json:"expire,omitempty"`
	ExpireNull caddy.Duration   `json:"expire_null,omitempty"`

	// Replies say what the replies mean by which hosts do not take mail. The
	// first that knows a reply is in force.
	Replies []Reading `json:"replies,omitempty"`
}

// A Reading is what replies of mail hosts mean.
type Reading struct {
	// Pattern is a regular expression (RE2) that is looked for in the reply, such
	// as "421 4.7.0 try again later", whatever the case of its letters.
	Pattern string `json:"pattern"`

	// Pause is for how long nothing more is sent.
	Pause caddy.Duration `json:"pause,omitempty"`

	// Slow is for how long half of the concurrency and of the rates is made use
	// of, at least; said again meanwhile, half of that, down to an eighth.
	Slow caddy.Duration `json:"slow,omitempty"`

	// Elsewhere has the next mail host asked, though the reply is one about the
	// message or the recipient. If all say so, it stands.
	Elsewhere bool `json:"elsewhere,omitempty"`

	// Outcome is what becomes of the recipient: "retry" has him tried again where
	// the reply is permanent, "fail" gives him up where it is not. Default: what
	// the reply says.
	Outcome string `json:"outcome,omitempty"`
}

// The words of Rule.Count and Reading.Outcome.
const (
	countEach     = "each"
	countTogether = "together"
	outcomeRetry  = "retry"
	outcomeFail   = "fail"
)

// rules returns the table as the queue wants it, for these agents.
func (s *Shaping) rules(agents map[string]queue.Agent) ([]queue.Rule, error) {
	var out, known []queue.Rule
	if s.Providers {
		known = provider.Rules()
	}
	names := map[string]bool{}
	for i := range s.Rules {
		r := &s.Rules[i]
		q, err := r.compile()
		if err == nil && names[r.Name] {
			err = errors.New("there are two of this name")
		}
		if err == nil {
			err = cmp.Or(r.checkAgents(agents), r.checkSources(agents))
		}
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", cmp.Or(r.Name, fmt.Sprint("number ", i+1)), err)
		}
		names[r.Name] = true
		if i := slices.IndexFunc(known, func(k queue.Rule) bool { return k.Name == r.Name }); i >= 0 {
			r.inherit(&q, known[i])
			known = slices.Delete(known, i, i+1)
		}
		out = append(out, q)
	}
	out = append(out, known...)
	slices.SortStableFunc(out, func(a, b queue.Rule) int { return generality(a) - generality(b) })
	return out, nil
}

// inherit takes from a provider's rule what this one, q, does not say.
func (r *Rule) inherit(q *queue.Rule, base queue.Rule) {
	if len(q.Domains)+len(q.Hosts) == 0 {
		q.Domains, q.Hosts = base.Domains, base.Hosts
	}
	if r.Count == "" {
		q.Together = base.Together
	}
	q.Concurrency = cmp.Or(q.Concurrency, base.Concurrency)
	q.First = min(cmp.Or(q.First, base.First), q.Concurrency)
	q.PerAddress = cmp.Or(q.PerAddress, base.PerAddress)
	q.PerConnection = cmp.Or(q.PerConnection, base.PerConnection)
	q.Readings = append(q.Readings, base.Readings...)
}

// generality is greater for rules that are for all domains.
func generality(r queue.Rule) int {
	switch {
	case len(r.Domains)+len(r.Hosts) > 0:
		return 0
	case len(r.Agents)+len(r.Sources) > 0:
		return 1
	}
	return 2
}

// checkAgents refuses a rule that is for no agent there is.
func (r *Rule) checkAgents(agents map[string]queue.Agent) error {
	for _, p := range r.Agents {
		known := false
		for name := range agents {
			known = known || pattern.Glob(p, name)
		}
		if !known {
			return fmt.Errorf("there is no agent %s", p)
		}
	}
	return nil
}

// checkSources refuses a rule that is for no source there is.
func (r *Rule) checkSources(agents map[string]queue.Agent) error {
	var known []string
	for _, a := range agents {
		if s, ok := a.(interface{ Sources() []string }); ok {
			known = append(known, s.Sources()...)
		}
	}
	for _, p := range r.Sources {
		if !slices.ContainsFunc(known, func(n string) bool { return pattern.Glob(p, n) }) {
			return fmt.Errorf("there is no source %s", p)
		}
	}
	return nil
}

// compile returns the rule as the queue wants it.
func (r *Rule) compile() (q queue.Rule, err error) {
	if r.Name == "" || strings.ContainsFunc(r.Name, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return q, errors.New("a rule has a name, of ASCII letters, digits and signs")
	}
	q = queue.Rule{
		Name: r.Name, Agents: r.Agents, Sources: r.Sources, Together: r.Count == countTogether,
		Concurrency: r.Concurrency, First: r.FirstConcurrency,
		PerAddress: r.ConnectionsPerAddress, PerConnection: r.MessagesPerConnection,
		Expire: time.Duration(r.Expire), ExpireNull: time.Duration(r.ExpireNull),
	}
	if r.Count != "" && r.Count != countEach && r.Count != countTogether {
		return q, fmt.Errorf("count: '%s' is neither %s nor %s", r.Count, countEach, countTogether)
	}
	if min(r.Concurrency, r.FirstConcurrency, r.ConnectionsPerAddress, r.MessagesPerConnection) < 0 {
		return q, errors.New("a limit is negative")
	}
	if r.Concurrency > 0 && r.FirstConcurrency > r.Concurrency {
		return q, errors.New("the first concurrency is more than there may be in the end")
	}
	for _, l := range []struct {
		name string
		in   []string
		out  *[]string
	}{{"domains", r.Domains, &q.Domains}, {"mx", r.MX, &q.Hosts}} {
		*l.out = slices.Clone(l.in)
		if err := pattern.Domains(*l.out); err != nil {
			return q, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	if q.Messages, err = rates("messages", r.Messages); err != nil {
		return q, err
	}
	if q.Recipients, err = rates("recipients", r.Recipients); err != nil {
		return q, err
	}
	if q.Retry, err = retries(r.Retry); err != nil {
		return q, err
	}
	for _, x := range r.Replies {
		reading, err := x.compile()
		if err != nil {
			return q, fmt.Errorf("reply '%s': %w", x.Pattern, err)
		}
		q.Readings = append(q.Readings, reading)
	}
	return q, nil
}

func rates(what string, in []string) (out []queue.Rate, err error) {
	for _, s := range in {
		n, per, err := caddyopt.ParseRate(s)
		if err == nil && n == 0 {
			err = fmt.Errorf("'%s' is not a rate: hold the mail, if none is to go", s)
		}
		if err == nil && slices.ContainsFunc(out, func(o queue.Rate) bool { return o.Per == per }) {
			err = errors.New("two rates of the same time")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		out = append(out, queue.Rate{N: n, Per: per})
	}
	return out, nil
}

// retries are the times between attempts.
func retries(in []caddy.Duration) (out []time.Duration, err error) {
	for _, d := range in {
		if d <= 0 {
			return nil, errors.New("retry: a time is not positive")
		}
		out = append(out, time.Duration(d))
	}
	return out, nil
}

func (r *Reading) compile() (q queue.Reading, err error) {
	q = queue.Reading{
		Elsewhere: r.Elsewhere, Later: r.Outcome == outcomeRetry, Never: r.Outcome == outcomeFail,
		Pause: time.Duration(r.Pause), Slow: time.Duration(r.Slow),
	}
	switch {
	case r.Outcome != "" && !q.Later && !q.Never:
		return q, fmt.Errorf("outcome: '%s' is neither %s nor %s", r.Outcome, outcomeRetry, outcomeFail)
	case min(q.Pause, q.Slow) < 0:
		return q, errors.New("a time is negative")
	case r.Pattern == "":
		return q, errors.New("the pattern is empty")
	}
	q.Pattern, err = regexp.Compile("(?i:" + r.Pattern + ")")
	return q, err
}

// Check returns what is wrong with a rule, whatever agents there are.
func (r *Rule) Check() error {
	_, err := r.compile()
	return err
}

// Check returns what is wrong with a reading.
func (r *Reading) Check() error {
	_, err := r.compile()
	return err
}
