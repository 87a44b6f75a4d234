package deliver

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
)

// declared is an agent that is written in the handler's own line.
type declared struct {
	module string
	raw    json.RawMessage
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Its first
// argument is the name of an agent, or a module to make an agent of, whose
// arguments and options go with it. Syntax:
//
//	deliver <agent>|<module> [<args...>] {
//		users <table...>
//		subaddress <separator>
//		<options of the module>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	line := []caddyfile.Token{d.Token()}
	for d.NextArg() {
		line = append(line, d.Token())
	}
	if len(line) == 1 {
		return d.ArgErr()
	}
	name := line[1].Text
	_, err := caddy.GetModule("smtp.agents." + name)
	options := caddyopt.Table{
		"users":      caddyopt.Module("smtp.tables", "table", &h.UsersRaw),
		"subaddress": caddyopt.String(&h.Subaddress),
	}
	if err != nil { // a name
		if h.Agent = name; len(line) > 2 {
			return d.Errf("there is no agent module '%s', and an agent's name takes no arguments", name)
		}
		return caddyopt.Block(d, options)
	}
	var rest []caddyfile.Token
	options[""] = func(d *caddyfile.Dispenser) error {
		rest = append(rest, d.NextSegment()...)
		return nil
	}
	if err := caddyopt.Block(d, options); err != nil {
		return err
	}
	h.declared.module = name
	h.declared.raw, err = agent(line, rest)
	return err
}

// agent reads an agent from the rest of the handler's line and those lines of
// its block that are not the handler's.
func agent(line, block []caddyfile.Token) (json.RawMessage, error) {
	tokens := append([]caddyfile.Token(nil), line[1:]...)
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
	return h.declared.module, h.declared.raw
}

// NameAgent tells the handler what that agent is called.
func (h *Handler) NameAgent(name string) { h.Agent = name }
