package relay

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Hosts, and all
// options but its own, are those of a relay agent that is declared here. Syntax:
//
//	relay [<host[:port]>...] {
//		trust <networks...>
//		agent <name>
//		agent_by <table...>
//		agent_attribute <name>
//		<options of the relay agent>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	line := []caddyfile.Token{d.Token()}
	for d.NextArg() {
		line = append(line, d.Token())
	}
	var rest []caddyfile.Token
	err := caddyopt.Block(d, caddyopt.Table{
		"trust":           h.readTrust,
		"agent":           caddyopt.String(&h.Agent),
		"agent_by":        caddyopt.Module("smtp.tables", "table", &h.AgentByRaw),
		"agent_attribute": caddyopt.String(&h.AgentAttribute),
		"": func(d *caddyfile.Dispenser) error {
			rest = append(rest, d.NextSegment()...)
			return nil
		},
	})
	switch {
	case err != nil:
		return err
	case h.Agent == "":
		h.declared, err = agent(line, rest)
		return err
	case len(line) > 1:
		return d.Errf("relay has an agent by name; '%s' belongs to that agent", line[1].Text)
	case len(rest) > 0:
		return d.Errf("relay has an agent by name; option '%s' belongs to that agent", rest[0].Text)
	}
	return nil
}

func (h *Handler) readTrust(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	if _, err := pattern.ParseNetworks(args); err != nil {
		return d.WrapErr(err)
	}
	h.Trust = append(h.Trust, args...)
	return nil
}

// agent reads a relay agent from the handler's line and those lines of its
// block that are not the handler's.
func agent(line, block []caddyfile.Token) (json.RawMessage, error) {
	tokens := append([]caddyfile.Token(nil), line...)
	if len(block) > 0 {
		open, end := line[0].Clone(), line[0].Clone()
		open.Text, open.Line = "{", line[len(line)-1].Line
		end.Text, end.Line = "}", block[len(block)-1].Line+1
		tokens = append(append(append(tokens, open), block...), end)
	}
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	return caddyopt.Guest(d, "smtp.agents", "agent")
}

// DeclaredAgent returns the agent that the handler's line declares.
func (h *Handler) DeclaredAgent() (module string, raw json.RawMessage) {
	if h.declared == nil {
		return "", nil
	}
	return "relay", h.declared
}

// NameAgent tells the handler what that agent is called.
func (h *Handler) NameAgent(name string) { h.Agent = name }

var (
	_ session.RcptHandler    = (*Handler)(nil)
	_ session.Claimer        = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
	_ caddyopt.AgentDeclarer = (*Handler)(nil)
)
