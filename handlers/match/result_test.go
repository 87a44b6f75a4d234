package match_test

import (
	"testing"

	_ "github.com/caddymail/caddy-smtp/handlers/match/result"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestResults(t *testing.T) {
	p := point(t)
	p.Transaction.Results = []session.Result{
		{Method: "iprev", Value: "permerror"}, {Method: "spf", Value: "pass"}, {Method: "spf", Value: "fail"},
		{Method: "dkim", Value: "fail"}, {Method: "dkim", Value: "pass"}, {Method: "dkim", Value: "temperror"},
		{Method: "dmarc", Value: "pass"}, {Method: "dmarc", Value: "fail"}, {Method: "x-own", Value: "yes"},
	}
	for in, want := range map[string]struct {
		match bool
		stage session.Stage
	}{
		"spf fail softfail":    {true, session.StageMail},
		"spf pass":             {false, session.StageMail}, // the last one counts
		"iprev fail permerror": {true, session.StageMail},
		"dkim pass":            {true, session.StageMessage}, // one that passes does
		"dkim fail temperror":  {false, session.StageMessage},
		"dmarc fail":           {true, session.StageMessage},
		"dmarc pass":           {false, session.StageMessage},
		"arc none fail pass":   {false, session.StageMessage}, // not checked
		"result x-own no yes":  {true, session.StageMessage},
		"result spf fail":      {true, session.StageMail},
		"result dnsbl listed":  {false, session.StageRcpt},
		"not dmarc pass":       {true, session.StageMessage},
		"not arc pass":         {true, session.StageMessage},
	} {
		m, _, err := load(t, in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		got, err := m.Match(t.Context(), p)
		if err != nil || got != want.match || m.Stage() != want.stage {
			t.Errorf("%s: got %v at %s, %v; want %v at %s", in, got, m.Stage(), err, want.match, want.stage)
		}
	}
	for _, in := range []string{"spf", "spf fial", "result", "result spf", "result spf nine", "dkim softfail", "iprev none"} {
		if _, _, err := load(t, in); err == nil {
			t.Errorf("%s is taken", in)
		}
	}
}
