package tests

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAdapt compares each Caddyfile in testdata/adapt with the JSON below the
// line of dashes in its file. UPDATE=1 writes the JSON anew.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, want, _ := strings.Cut(string(b), "\n----------\n")
			got, err := adapt(t, text)
			if err != nil {
				t.Fatal(err)
			}
			if os.Getenv("UPDATE") != "" {
				var out bytes.Buffer
				if err := json.Indent(&out, got, "", "\t"); err != nil {
					t.Fatal(err)
				}
				want = out.String()
				if err := os.WriteFile(file, []byte(text+"\n----------\n"+want+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if !sameJSON(t, got, []byte(want)) {
				var out bytes.Buffer
				json.Indent(&out, got, "", "\t")
				t.Errorf("adapts to:\n%s", out.String())
			}
		})
	}
}

// TestCaddyfileErrors: what is wrong is named, with file and line.
func TestCaddyfileErrors(t *testing.T) {
	const server = "{\n\tsmtp {\n\t\tserver mx :25 {\n\t\t\t%\n\t\t}\n\t}\n}\n"
	const top = "{\n\tsmtp {\n\t\t%\n\t}\n}\n"
	for name, tc := range map[string]struct{ frame, in, want string }{
		"unknown option of the app":     {top, "hostnam x", "unrecognized option 'hostnam', at Caddyfile:3"},
		"unknown option of a server":    {server, "greet_perod 3s", "unrecognized option or handler 'greet_perod', at Caddyfile:4"},
		"missing argument":              {top, "hostname", "wrong argument count"},
		"missing argument, line":        {top, "hostname", "at Caddyfile:3"},
		"option twice":                  {top, "hostname a\nhostname b", "given twice, at Caddyfile:4"},
		"bad duration":                  {top, "grace_period soon", "at Caddyfile:3"},
		"address in the name's place":   {top, "server :25 {\n discard\n}", "a server has a name first"},
		"no address":                    {top, "server mx {\n discard\n}", "no address to listen on"},
		"server twice":                  {top, "server a :25 {\n discard\n}\nserver a :26 {\n discard\n}", "declared twice, at Caddyfile:6"},
		"agent twice":                   {top, "agent a discard\nagent a discard", "declared twice, at Caddyfile:4"},
		"agent with a module's name":    {top, "agent discard discard", "cannot have the name of a module"},
		"no such agent module":          {top, "agent a pigeon", "no module 'pigeon' in smtp.agents"},
		"no such matcher":               {server, "@x moon_phase full\ndiscard @x", "no module 'moon_phase' in smtp.matchers"},
		"matcher not defined":           {server, "discard @nobody", "matcher @nobody is not defined, at Caddyfile:4"},
		"matcher never used":            {server, "@x rcpt_domain a.test\ndiscard", "matcher @x is never used, at Caddyfile:4"},
		"matcher twice":                 {server, "@x rcpt_domain a.test\n@x rcpt_domain b.test\ndiscard @x", "defined twice, at Caddyfile:5"},
		"too early for its matcher":     {server, "@x rcpt_domain a.test\nauth @x {\n inline {\n a $2a$04$0JlfMz3Z819idSiDbcUqguRDVxSeueOrPfGB8HIF0dntX1m7yecAO\n }\n}", "before its matcher can decide at RCPT, at Caddyfile:5"},
		"two catch-alls":                {server, "handle {\n discard\n}\nhandle {\n reject\n}", "unreachable: the route at Caddyfile:4 matches everything, at Caddyfile:7"},
		"nobody left":                   {server, "discard\nrelay", "unreachable: discard before it takes every recipient, at Caddyfile:5"},
		"empty handle":                  {server, "handle {\n}", "without a handler, at Caddyfile:4"},
		"argument of handle":            {server, "handle x {\n discard\n}", "at Caddyfile:4"},
		"two agents of a module inline": {server, "@a rcpt_domain a.test\ndeliver @a maildir /a\ndeliver maildir /b", "declare this one under a name"},
		"tls setting":                   {server, "tls external\ndiscard", "unrecognized TLS setting 'external'"},
		"limit":                         {server, "limits {\n recipients many\n}\ndiscard", "at Caddyfile:5"},
		"budget of logins":              {top, "logins {\n user 10\n address 0\n}", "'0' is not a number of 1 or more, at Caddyfile:5"},
		"delay of logins":               {top, "logins {\n delay 0s\n}", "'0s' is not a duration, at Caddyfile:4"},
		"ban without a length":          {top, "logins {\n ban\n}", "wrong argument count or unexpected line ending after 'ban', at Caddyfile:4"},
		"ban that gets shorter":         {top, "logins {\n ban 2h 1h\n}", "logins: the longest is less than the first"},
		"exempt from bans":              {top, "logins {\n exempt everybody\n}", "logins: exempt: 'everybody' is neither an address nor a network"},
		"option of logins":              {top, "logins {\n addr 5\n}", "unrecognized option 'addr', at Caddyfile:4"},
		"reply code":                    {server, "reject 250", "Caddyfile:4"},
		"result that there is not":      {server, "@x spf pass fial\nreject @x\nspf", "'fial' is not a result of spf; there are none, neutral, pass, fail, softfail, temperror, permerror, at Caddyfile:4"},
		"matcher without a result":      {server, "@x dmarc\nreject @x", "a method and its values are needed, at Caddyfile:4"},
		"spf rejects temperror":         {server, "spf {\n reject temperror\n}", "temperror passes: defer it"},
		"iprev defers what is rejected": {server, "iprev {\n reject fail\n defer fail\n}", "both rejected and deferred"},
		"too many signatures":           {server, "dkim {\n signatures 9\n}", "no more than 8, at Caddyfile:"},
		"check that verify has not":     {server, "verify {\n dnsbl off\n}", "unrecognized option 'dnsbl', at Caddyfile:5"},
		"option of a check of verify":   {server, "verify {\n spf {\n rejcet fail\n }\n}", "unrecognized option 'rejcet', at Caddyfile:6"},
		"check at the wrong stage":      {server, "@x dkim fail\nspf\niprev @x\ndiscard", "iprev acts at MAIL, before its matcher can decide at message, at Caddyfile:6"},
		"rule without a name":           {top, "shaping {\n rule {\n }\n}", "wrong argument count"},
		"rule twice":                    {top, "shaping {\n rule a\n rule a\n}", "rule a is given twice, at Caddyfile:5"},
		"option of a rule":              {top, "shaping {\n rule a {\n  speed 3\n }\n}", "unrecognized option 'speed', at Caddyfile:5"},
		"domain of a rule":              {top, "shaping {\n rule a {\n  domain a..b\n }\n}", "rule a: domains: 'a..b' is not a domain"},
		"rate of a rule":                {top, "shaping {\n rule a {\n  messages 5 per minute\n }\n}", "rule a: messages: '5' is not a number and a time such as 200/1h, at Caddyfile:4"},
		"rate of nothing":               {top, "shaping {\n rule a {\n  messages 0/1h\n }\n}", "hold the mail, if none is to go"},
		"concurrency that shrinks":      {top, "shaping {\n rule a {\n  concurrency 2 5\n }\n}", "more than there may be in the end"},
		"count of a rule":               {top, "shaping {\n rule a {\n  count twice\n }\n}", "'twice' is neither each nor together"},
		"pattern of a rule":             {top, "shaping {\n rule a {\n  reply \"4(21\" pause 1h\n }\n}", "missing closing ): `(?i:4(21)`, at Caddyfile:5"},
		"reply that means nothing":      {top, "shaping {\n rule a {\n  reply 421\n }\n}", "a reply means something"},
		"reply that means two things":   {top, "shaping {\n rule a {\n  reply 421 retry fail\n }\n}", "of which there is one, at Caddyfile:5"},
		"pause of no length":            {top, "shaping {\n rule a {\n  reply 421 pause\n }\n}", "'pause' is for how long?, at Caddyfile:5"},
		"source of a rule":              {top, "agent out relay {\n pool p {\n  source 192.0.2.1\n }\n}\nshaping {\n rule a {\n  source p/192.0.2.2\n }\n}", "shaping: rule a: there is no source p/192.0.2.2"},
		"agent of a rule":               {top, "shaping {\n rule a {\n  agent nobody\n }\n}", "shaping: rule a: there is no agent nobody"},
		"expression":                    {server, "@x expression `mail_fro == \"a\"`\ndiscard @x", "mail_fro"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := adapt(t, strings.Replace(tc.frame, "%", tc.in, 1))
			if err == nil {
				err = validate(t, cfg)
			}
			if err == nil {
				t.Fatal("no error")
			}
			contains(t, err.Error(), tc.want)
		})
	}
}
