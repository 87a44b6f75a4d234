package smtpapp

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// Extensions are what clients may ask for with a message, and questions that
// they are answered.
type Extensions struct {
	// MTPriority lets clients give messages a priority (RFC 6710), by which the
	// queue orders what waits for a destination. Default: not offered.
	MTPriority *MTPriority `json:"mt_priority,omitempty"`

	// DeliverBy is the least time that a client may give for the delivery of a
	// message which is to be returned when that is over (RFC 2852); negative:
	// DELIVERBY is not offered. Default: 0, any time.
	DeliverBy caddy.Duration `json:"deliver_by,omitempty"`

	// DSN says who may ask for notifications (RFC 3461: RET, ENVID, NOTIFY, ORCPT):
	// "on", everybody; "trusted", those who logged in or are in trusted networks;
	// "off", nobody. A stranger who asks to hear of success may have a sender that
	// is not his, who hears it then. To whom it is not offered, the host before
	// this one says that it has passed the message on. Default: on.
	DSN string `json:"dsn,omitempty"`

	// VRFY says whom VRFY tells if a mailbox exists (RFC 5321, section 3.5):
	// "authenticated", those who logged in; "on", clients in trusted networks
	// too; "off", nobody. All others hear the same of every mailbox. Default: off.
	VRFY string `json:"vrfy,omitempty"`

	// EXPN says whom EXPN tells where an alias leads to, in the words of VRFY.
	// Default: off.
	EXPN string `json:"expn,omitempty"`

	// Help is what HELP answers, of one or more lines. Default: a reference to
	// RFC 5321.
	Help string `json:"help,omitempty"`
}

// MTPriority says who may ask for which priority. Priorities are -9 to 9, and a
// message that has none given has 0. Who asks for more than he gets is told in
// the reply to MAIL (250 2.3.6). Each step is worth an hour of waiting, so that
// nothing waits forever.
type MTPriority struct {
	// Policy is the name of the assignment policy that is announced, such as
	// MIXER or STANAG4406: 1 to 20 letters, digits and hyphens. Default: none.
	Policy string `json:"policy,omitempty"`

	// Max is the highest priority for clients that logged in or are in trusted
	// networks. Default: 9.
	Max *int `json:"max,omitempty"`

	// MaxOthers is the highest priority for all others. Default: 0.
	MaxOthers int `json:"max_others,omitempty"`

	// Min is the lowest priority that is taken; others are to come again later
	// (450 4.7.15). Default: -9.
	Min *int `json:"min,omitempty"`

	// Refuse refuses (550 5.7.1) what asks for more than it gets, in the place of
	// giving it less. Default: false.
	Refuse bool `json:"refuse,omitempty"`

	// MaxSizes bound messages of high priorities (552 5.7.16). Default: none.
	MaxSizes []PrioritySize `json:"max_sizes,omitempty"`

	// Header takes the priority from the field MT-Priority (RFC 6758) where MAIL
	// says none, for clients that logged in or are in trusted networks. The
	// relay agent's tunnel_priority writes that field. Default: false.
	Header bool `json:"header,omitempty"`
}

// PrioritySize bounds messages of a priority and those above it.
type PrioritySize struct {
	Priority int `json:"priority,omitempty"`
	// Size is in octets.
	Size int64 `json:"size,omitempty"`
}

// offers is what sessions are told of them.
func (e *Extensions) offers(routes []session.Route) (o session.Offers, err error) {
	o.DeliverBy, o.LeastTime = e.DeliverBy >= 0, time.Duration(max(e.DeliverBy, 0))
	if o.LeastTime > 999_999_999*time.Second {
		return o, fmt.Errorf("deliver_by: RFC 2852 has no times as long as %v", o.LeastTime)
	}
	switch e.DSN {
	case "", "on":
	case "trusted":
		o.DSN = new(session.ForTrusted)
	case "off":
		o.DSN = new(session.ForNobody)
	default:
		return o, fmt.Errorf("dsn: '%s' is none of off, trusted, on", e.DSN)
	}
	if o.VRFY, err = audience(e.VRFY); err != nil {
		return o, fmt.Errorf("vrfy: %w", err)
	}
	if o.EXPN, err = audience(e.EXPN); err != nil {
		return o, fmt.Errorf("expn: %w", err)
	}
	if e.MTPriority != nil {
		if o.Priorities, err = e.MTPriority.priorities(); err != nil {
			return o, fmt.Errorf("mt_priority: %w", err)
		}
	}
	o.ValidSince = knowsOwners(routes)
	return o, nil
}

func audience(word string) (session.Audience, error) {
	switch word {
	case "", "off":
		return session.ForNobody, nil
	case "authenticated":
		return session.ForUsers, nil
	case "on":
		return session.ForTrusted, nil
	}
	return 0, fmt.Errorf("'%s' is none of off, authenticated, on", word)
}

func (m *MTPriority) priorities() (*session.Priorities, error) {
	p := &session.Priorities{Policy: m.Policy, Own: 9, Others: m.MaxOthers, Lowest: -9, Refuse: m.Refuse, Field: m.Header}
	if m.Max != nil {
		p.Own = *m.Max
	}
	if m.Min != nil {
		p.Lowest = *m.Min
	}
	all := []int{p.Own, p.Others, p.Lowest}
	for _, s := range m.MaxSizes {
		if s.Size <= 0 {
			return nil, fmt.Errorf("max_sizes: %d octets for priority %d take no message", s.Size, s.Priority)
		}
		all = append(all, s.Priority)
		p.Sizes = append(p.Sizes, session.PrioritySize{Priority: s.Priority, Size: s.Size})
	}
	for _, n := range all {
		if n < -9 || n > 9 {
			return nil, fmt.Errorf("%d is no priority: they are -9 to 9", n)
		}
	}
	if p.Lowest > p.Own {
		return nil, errors.New("min is above max: no message would be taken")
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"
	if len(p.Policy) > 20 || strings.Trim(p.Policy, alphabet) != "" {
		return nil, fmt.Errorf("policy: '%s' is not 1 to 20 letters, digits and hyphens", p.Policy)
	}
	return p, nil
}

// knowsOwners reports whether a handler can tell since when mailboxes have their
// owners.
func knowsOwners(routes []session.Route) bool {
	for _, r := range routes {
		for _, h := range r.Handlers {
			if _, ok := h.Module.(interface{ KnowsOwners() }); ok || knowsOwners(h.Routes) {
				return true
			}
		}
	}
	return false
}

// passesOn reports whether an agent hands mail to other hosts, which learn what
// was asked for along with it.
func (a *App) passesOn(agent string) bool {
	_, ok := a.agents[agent].(queue.Forwarder)
	return ok
}
