package tests

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// guessing is a server behind a proxy. All that limits guesses is as it is where
// nobody says anything, but for how late failures are answered.
const guessing = `
	connections none
	%s
	server submission ADDR(mx) {
		listener_wrappers {
			proxy_protocol {
				allow 127.0.0.0/8
			}
		}
		tls internal
		plaintext_auth
		limits {
			exempt 0.0.0.0/0
			%s
		}
		auth inline {
			owner $2a$04$ji6dziZNN6robtJeQGNapefceOZ8cnaqnWGjJb/HfxGvG89RI92mC
		}
		discard
	}
`

// Answers are what guesses were answered with.
type answers struct {
	sync.Mutex
	replies map[string]int // by code, and 421 where there was no greeting
	wrong   []time.Time    // of those that were looked at
	soonest time.Duration  // of their replies
}

// guess tries a password from an address, over a connection of its own.
func (y *answers) guess(t *testing.T, addr, ip, user, password string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	say := func(line string) (reply string) {
		fmt.Fprint(conn, line+"\r\n")
		for {
			reply, err = r.ReadString('\n')
			if err != nil || len(reply) < 4 || reply[3] != '-' {
				return reply
			}
		}
	}
	began := time.Now()
	reply := say("PROXY TCP4 " + ip + " 192.0.2.25 12345 587")
	if strings.HasPrefix(reply, "220 ") {
		say("EHLO client.test")
		began = time.Now()
		reply = say("AUTH PLAIN " + b64("\x00"+user+"\x00"+password))
	}
	if err != nil {
		t.Errorf("%s: %v", ip, err)
		return
	}
	y.Lock()
	defer y.Unlock()
	y.replies[reply[:3]]++
	if strings.HasPrefix(reply, "535") {
		y.wrong = append(y.wrong, time.Now())
		if d := time.Since(began); y.soonest == 0 || d < y.soonest {
			y.soonest = d
		}
	}
}

// most is how many were looked at within a minute.
func (y *answers) most() (n int) {
	for i, j := 0, 0; j < len(y.wrong); j++ {
		for y.wrong[j].Sub(y.wrong[i]) >= time.Minute {
			i++
		}
		n = max(n, j-i+1)
	}
	return n
}

// TestGuessing is promise P30 over sockets: 10,000 guesses from one address, and
// as many from 500, find nothing, though the password is among them. Most are not
// looked at, the server does not grow, and the owner logs in as ever where he is
// at home.
func TestGuessing(t *testing.T) {
	guesses, addresses, soon := many(400, 10_000), many(40, 500), 20*time.Millisecond
	logins, limits := "logins {\n\tdelay 20ms 50ms\n}", "error_delay none"
	if guesses == 10_000 {
		logins, limits, soon = "", "", time.Second
	}
	p := runCaddy(t, fmt.Sprintf(guessing, logins, limits))
	login := func(ip string) string {
		y := &answers{replies: map[string]int{}}
		y.guess(t, p.addr("mx"), ip, "owner", "secret")
		return fmt.Sprint(y.replies)
	}
	if got := login("198.51.100.7"); got != "map[235:1]" {
		t.Fatal(got)
	}
	attack := func(workers int, who func(i int) (ip, user string)) *answers {
		y := &answers{replies: map[string]int{}}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < guesses; i += workers {
					ip, user := who(i)
					password := fmt.Sprint("guess ", i)
					if i == guesses*3/4 {
						user, password = "owner", "secret"
					}
					y.guess(t, p.addr("mx"), ip, user, password)
				}
			})
		}
		began := time.Now()
		wg.Wait()
		if len(y.wrong) == 0 || y.replies["235"] > 0 || y.soonest < soon {
			t.Errorf("%v, the soonest after %v", y.replies, y.soonest)
		}
		t.Logf("%d guesses by %d at a time within %v: %v; %d looked at within a minute, answered after %v at least",
			guesses, workers, time.Since(began).Round(time.Millisecond), y.replies, y.most(), y.soonest.Round(time.Millisecond))
		return y
	}
	before := p.resident()
	y := attack(4, func(i int) (string, string) { return "203.0.113.1", fmt.Sprint("user", i%50) })
	if y.most() > 10 || len(y.wrong) > 50 || y.replies["421"] < guesses-100 {
		t.Errorf("one address: %d looked at, %d within a minute", len(y.wrong), y.most())
	}
	// Half of them in networks of their own, at one user; half as neighbours.
	y = attack(many(40, 100), func(i int) (string, string) {
		if n := i % addresses; n%2 == 0 {
			return fmt.Sprintf("10.%d.%d.1", n/64, n%64*4), "owner"
		} else {
			return fmt.Sprintf("172.16.%d.%d", n/2/64, n/2%64), fmt.Sprint("user", i)
		}
	})
	if y.most() > 90+20 {
		t.Errorf("many addresses: %d looked at within a minute", y.most())
	}
	after := p.resident()
	t.Logf("memory: %d MiB before, %d MiB after", before>>10, after>>10)
	if after > before+16<<10 {
		t.Errorf("the process has grown by %d KiB", after-before)
	}
	var metrics string
	p.get("/metrics", &metrics)
	contains(t, metrics, `caddy_smtp_login_bans_total{scope="address"}`, `caddy_smtp_logins_limited_total{scope="user",server="submission"}`)
	if !strings.Contains(metrics, `bans_total{scope="subnet"}`) && !strings.Contains(metrics, `bans_total{scope="network"}`) {
		t.Error("no neighbourhood was banned")
	}
	if got := login("198.51.100.8"); got != "map[235:1]" { // the next desk
		t.Error("the owner: ", got)
	}
	if got := login("203.0.113.1"); got != "map[421:1]" && got != "map[454:1]" { // a long run outlasts the ban
		t.Error("the guesser: ", got)
	}
}
