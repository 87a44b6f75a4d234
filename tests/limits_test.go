package tests

import (
	"os"
	"strings"
	"testing"
)

// Frames are where an option of limitTable stands.
var frames = map[string]string{
	"app":      "%s\nserver mx :25 {\ndiscard\n}",
	"queue":    "queue DIR/queue2 {\n%s\n}\nserver mx :25 {\ndiscard\n}",
	"logins":   "logins {\n%s\n}\nserver mx :25 {\ndiscard\n}",
	"limits":   "server mx :25 {\nlimits {\n%s\n}\ndiscard\n}",
	"timeouts": "server mx :25 {\ntimeouts {\n%s\n}\ndiscard\n}",
	"relay":    "server mx :25 {\nrelay {\n%s\n}\n}",
	"peers":    "server mx :25 {\nrelay {\ntimeouts {\n%s\n}\n}\n}",
	"aliases":  "server mx :25 {\naliases {\ntable inline {\na b\n}\n%s\n}\ndiscard\n}",
}

// limitTable are the bounds that there are for clients, peers and the queue: the
// option with its default, the JSON that it becomes, and values that are refused,
// with a part of what is said about them.
var limitTable = []struct {
	frame, option, json string
	refused             map[string]string
}{
	// Peers to which mail is sent.
	{"relay", "connect_timeout 30s", `"connect_timeout":30000000000`, map[string]string{"connect_timeout soon": "duration", "connect_timeout 2h": "is not up to 1h"}},
	{"peers", "greeting 5m", `"greeting":300000000000`, map[string]string{"greeting 2h": "greeting: 2h0m0s is not up to 1h"}},
	{"peers", "handshake 1m", `"handshake":60000000000`, nil},
	{"peers", "command 5m", `"command":300000000000`, nil},
	{"peers", "data 2m", `"data":120000000000`, nil},
	{"peers", "block 3m", `"block":180000000000`, nil},
	{"peers", "dot 10m", `"dot":600000000000`, map[string]string{"dot 5m": "would be sent again"}},
	{"peers", "reset 20s", `"reset":20000000000`, nil},
	{"peers", "quit 5s", `"quit":5000000000`, map[string]string{"quit -5s": "quit"}},
	// Clients: how long they may take.
	{"timeouts", "before_hello 30s", `"before_hello":30000000000`, map[string]string{"before_hello -1s": "before_hello"}},
	{"timeouts", "command 5m", `"command":300000000000`, map[string]string{"command x": "duration"}},
	{"timeouts", "block 3m", `"block":180000000000`, nil},
	{"timeouts", "content 60m", `"content":3600000000000`, nil},
	{"timeouts", "handshake 10s", `"handshake":10000000000`, nil},
	{"timeouts", "write 5m", `"write":300000000000`, nil},
	{"timeouts", "greeting 1ms", `"greeting":1000000`, map[string]string{"greeting 5m": "clients do not wait for 5m0s"}},
	{"timeouts", "min_rate 500", `"min_rate":500`, map[string]string{"min_rate -1": "min_rate"}},
	// What they may send.
	{"limits", "line_length 2048", `"line_length":2048`, map[string]string{"line_length 100": "line_length", "line_length 70000": "is not 512 to 16384 octets"}},
	{"limits", "auth_line_length 12288", `"auth_line_length":12288`, map[string]string{"auth_line_length 99999": "is not 512 to 16384 octets"}},
	{"limits", "text_line 1048576", `"text_line":1048576`, map[string]string{"text_line 998": "less than the 1000 octets", "text_line 0": "none lifts the limit"}},
	{"limits", "recipients 1000", `"recipients":1000`, map[string]string{"recipients 0": "recipients", "recipients all": "recipients"}},
	{"limits", "messages 100", `"messages":100`, map[string]string{"messages -1": "messages"}},
	{"limits", "message_size 35MiB", `"message_size":36700160`, map[string]string{"message_size huge": "message_size", "message_size 0": "none lifts the limit"}},
	{"limits", "header_size 256KiB", `"header_size":262144`, map[string]string{"header_size 0": "none lifts the limit"}},
	{"limits", "header_fields 1000", `"header_fields":1000`, nil},
	{"limits", "field_size 64KiB", `"field_size":65536`, nil},
	{"limits", "hops 50", `"hops":50`, map[string]string{"hops 0": "hops"}},
	{"limits", "soft_errors 5", `"soft_errors":5`, nil},
	{"limits", "hard_errors 10", `"hard_errors":10`, nil},
	{"limits", "error_delay 1s", `"error_delay":1000000000`, map[string]string{"error_delay 2m": "clients do not wait for 2m0s"}},
	{"limits", "non_mail 100", `"non_mail":100`, nil},
	{"limits", "failed_auth 3", `"failed_auth":3`, nil},
	{"limits", "chunks 10000", `"chunks":10000`, nil},
	{"limits", "connections_per_address 30", `"connections_per_address":30`, map[string]string{"connections_per_address 0": "connections_per_address"}},
	{"limits", "connections_per_network 90", `"connections_per_network":90`, nil},
	{"limits", "connection_rate 300", `"connection_rate":300`, nil},
	{"limits", "message_rate 500", `"message_rate":500`, nil},
	{"limits", "exempt 127.0.0.0/8", `"exempt":["127.0.0.0/8"]`, map[string]string{"exempt all": "neither an address nor a network"}},
	{"app", "connections 2000", `"connections":2000`, map[string]string{"connections 0": "connections"}},
	// Guesses at passwords.
	{"logins", "address 10 50", `"address":{"minute":10,"day":50}`, map[string]string{"address 0": "'0' is not a number of 1 or more"}},
	{"logins", "subnet 30 150", `"subnet":{"minute":30,"day":150}`, nil},
	{"logins", "network 90 450", `"network":{"minute":90,"day":450}`, nil},
	{"logins", "user 20 200", `"user":{"minute":20,"day":200}`, nil},
	{"logins", "delay 1s 10s", `"delay":1000000000,"max_delay":10000000000`, map[string]string{"delay 10s 1s": "the longest is less than the first"}},
	{"logins", "ban 5m 24h", `"ban":300000000000,"max_ban":86400000000000`, nil},
	// The queue.
	{"queue", "free_space 512MiB", `"free_space":536870912`, map[string]string{"free_space much": "free_space"}},
	{"queue", "expire 5d", `"expire":432000000000000`, map[string]string{"expire never": "duration"}},
	{"queue", "expire_null 1d", `"expire_null":86400000000000`, nil},
	{"queue", "delay_notice 4h", `"delay_notice":14400000000000`, nil},
	{"queue", "retry 1m 5m 10m 20m 40m 1h20m 2h40m 4h", `"retry":[60000000000,300000000000,600000000000,1200000000000,2400000000000,4800000000000,9600000000000,14400000000000]`, nil},
	{"queue", "concurrency 200", `"concurrency":200`, map[string]string{"concurrency 0": "concurrency"}},
	// Aliases.
	{"aliases", "depth 20", `"depth":20`, map[string]string{"depth 1000": "depth: 1000 is not 1 to 100"}},
	{"aliases", "addresses 1000", `"addresses":1000`, map[string]string{"addresses 5000": "is not 1 to 1000"}},
}

// TestLimitOptions: each bound is an option that the reference has with its
// default, becomes what it says in JSON, can be set to that, and if a value is
// refused it is said where and why.
func TestLimitOptions(t *testing.T) {
	h := newHost(t)
	reference, err := os.ReadFile("../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.NewReplacer("`", " ", "|", " ", ",", " ", "(", " ", ";", " ", "*", " ").Replace(string(reference))
	for _, tt := range limitTable {
		try := func(option string) (string, error) {
			cfg, err := adapt(t, h.config(strings.Replace(frames[tt.frame], "%s", option, 1), ""))
			if err != nil {
				return "", err
			}
			return string(cfg), validate(t, cfg)
		}
		got, err := try(tt.option)
		if err != nil || !strings.Contains(got, tt.json) {
			t.Errorf("%s: %s: %v\n%s", tt.frame, tt.option, err, got)
		}
		name, _, _ := strings.Cut(tt.option, " ")
		if !strings.Contains(words, " "+name+" ") {
			t.Errorf("the reference does not have %s", name)
		}
		for option, want := range tt.refused {
			if _, err := try(option); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %v, want %s", tt.frame, option, err, want)
			}
		}
	}
}
