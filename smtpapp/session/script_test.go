package session_test

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/admission"
	"github.com/caddymail/caddy-smtp/smtpapp/guard"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// TestScripts plays the dialogues in testdata, on connections in plaintext,
// after STARTTLS, and with TLS from the start. Each line of a script is
//
//	modes: plain          of plain, starttls, implicit: those that it is for
//	set: Name value       a field of session.Limits, LMTP, Proxies, Flush, Gate, Guard or an offer
//	C: text               a line; lines without a reply between go in one write
//	C> "text"             octets as Go quotes them, "…"*n for n times as many
//	P: 1s                 the client pauses so long behind each octet from here
//	W: 1s                 the client is silent
//	S: 250 2.1.0          a reply whose last line begins so; 250|421 for either, 250| for that or the end
//	N: 7 250              as many replies
//	S~ text               that reply has the text
//	S! text               that reply does not have it
//	T: 1s                 that reply came so long after what was sent last
//	X:                    the server closes
//	F: 192.0.2.1          the client goes, and another one comes from there
//	O: 7 192.0.2.1 220    as many others come from there, are greeted so, and stay
//	M: "content"          a message was accepted, in order, and is this; "" for any
//	E: 7                  it has as many recipients
//	R: text               its Received field has the text
//	L~ text               the log has the text
//	L! text               the log does not have it
//	K: 535 10 20          so many replies began so, at least and at most
//	H: 4                  the heap has not grown by more MiB
//	loop: 7               what follows, to end:, as many times
//
// In loops, in octets that are repeated, and in addresses, {n} is the number of
// the repetition, and {x} the same in hexadecimal digits; {login user secret} in a
// loop is the response of PLAIN. Messages that no M:
// names are faults. A # begins a comment. See audit for what no script may make
// the server say.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.smtp")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		script := string(b)
		modes := []string{"plain", "starttls", "implicit"}
		if m := modesLine.FindStringSubmatch(script); m != nil {
			modes = strings.Fields(m[1])
		}
		for _, mode := range modes {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".smtp")+"/"+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { play(t, script, mode) })
			})
		}
	}
}

var (
	modesLine  = regexp.MustCompile(`(?m)^modes: (.*)$`)
	plainLogin = regexp.MustCompile(`\{login (\S+) (\S+)\}`)
	loopLines  = regexp.MustCompile(`(?ms)^loop: (\d+)\n(.*?)^end:\n`)
)

type player struct {
	t       *testing.T
	srv     *server
	mode    string
	log     bytes.Buffer
	heap    uint64
	client  *client
	out     chan func(net.Conn) error
	written chan struct{}
	open    []net.Conn
	begun   int    // sessions
	held    string // a reply that was read already
	replies []string
	last    string // reply
	sent    time.Time
	pause   time.Duration
	unsent  string
	seen    int // messages
	audit   audit
}

func play(t *testing.T, script, mode string) {
	p := &player{t: t, srv: newServer(t), mode: mode}
	p.srv.cfg.Log = plainlog.New(slog.New(slog.NewJSONHandler(&p.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	script = loopLines.ReplaceAllStringFunc(script, unroll)
	lines := strings.Split(script, "\n")
	for len(lines) > 0 && (lines[0] == "" || strings.HasPrefix(lines[0], "set:") || strings.HasPrefix(lines[0], "modes:") || lines[0][0] == '#') {
		p.set(lines[0])
		lines = lines[1:]
	}
	p.heap = heap()
	if len(lines) > 0 && !strings.HasPrefix(lines[0], "F:") && !strings.HasPrefix(lines[0], "O:") {
		p.connect("")
	}
	defer p.end()
	for i, l := range lines {
		p.line(i+1, l)
	}
	p.flush()
	synctest.Wait()
	if n := len(p.srv.messages()); n != p.seen {
		t.Fatalf("%d messages were accepted, want %d: %+v", n, p.seen, p.srv.messages()[p.seen:])
	}
}

func unroll(loop string) string {
	m := loopLines.FindStringSubmatch(loop)
	n, _ := strconv.Atoi(m[1])
	return plainLogin.ReplaceAllStringFunc(repeat(m[2], n), func(s string) string {
		m := plainLogin.FindStringSubmatch(s)
		return b64("\x00" + m[1] + "\x00" + m[2])
	})
}

// repeat numbers its repetitions.
func repeat(s string, n int) string {
	if !strings.Contains(s, "{n}") && !strings.Contains(s, "{x}") {
		return strings.Repeat(s, n)
	}
	var b strings.Builder
	for i := range n {
		b.WriteString(numbered(s, i))
	}
	return b.String()
}

func numbered(s string, i int) string {
	return strings.NewReplacer("{n}", strconv.Itoa(i), "{x}", strconv.FormatInt(int64(i), 16)).Replace(s)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// end closes what is open, waits for all sessions, and audits what was said.
func (p *player) end() {
	p.hangUp()
	for _, c := range p.open {
		c.Close()
	}
	for range p.begun {
		<-p.srv.closed
	}
	p.audit.log(p.t, p.log.String())
}

func (p *player) hangUp() {
	if p.client != nil {
		p.client.Close()
	}
	if p.out != nil {
		close(p.out)
		<-p.written
		p.out = nil
	}
}

// addressed is a connection from somewhere.
type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

// dial connects from an address, "" for none.
func (p *player) dial(from string) net.Conn {
	p.t.Helper()
	client, srv := net.Pipe()
	if from != "" {
		srv = addressed{srv, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 4711))}
	}
	p.begun++
	p.srv.begin(p.t.Context(), srv, p.mode == "implicit")
	return client
}

// connect begins the dialogue with another connection, under TLS if the mode
// is one that has it.
func (p *player) connect(from string) {
	p.t.Helper()
	p.hangUp()
	c := p.dial(from)
	p.client = newClient(p.t, c)
	cfg := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate is ours
	switch p.mode {
	case "starttls":
		p.held = p.client.reply()
		if !strings.HasPrefix(p.held, "220") {
			break
		}
		p.client.send(map[bool]string{true: "LHLO", false: "EHLO"}[p.srv.cfg.LMTP] + " client.example")
		p.client.expect("250")
		p.client.send("STARTTLS")
		p.client.expect("220")
		fallthrough
	case "implicit":
		tc := tls.Client(c, cfg)
		if err := tc.Handshake(); err != nil {
			p.t.Fatal(err)
		}
		p.client = newClient(p.t, tc)
	}
	p.out = make(chan func(net.Conn) error, 1000)
	p.written = make(chan struct{})
	go write(p.client.Conn, p.out, p.written)
}

// write sends beside the reading of replies, as the pipe has no room.
func write(c net.Conn, out chan func(net.Conn) error, done chan struct{}) {
	defer close(done)
	var err error
	for f := range out {
		if err == nil {
			err = f(c)
		}
	}
}

func (p *player) set(l string) {
	f := strings.Fields(l)
	if len(f) != 3 || f[0] != "set:" {
		return
	}
	n, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	switch f[1] {
	case "LMTP":
		p.srv.cfg.LMTP = n == 1
	case "Flush":
		p.srv.cfg.Flush = func(domain string) *mail.Reply {
			if domain != "away.example" {
				return mail.Refuse(459, "4.7.1", "not that")
			}
			return nil
		}
	case "Proxies": // the pipe's address is none
		all := func(ip netip.Addr) bool { return !ip.IsValid() }
		p.srv.cfg.Proxies = session.Proxies{XCLIENT: all, XFORWARD: all}
	case "Gate": // the defaults
		p.srv.cfg.Admission = &gate{limits: admission.Limits{Connections: int(n), PerAddress: 30, PerNetwork: 90, Rate: 300, Messages: 500}}
	case "Guard": // the defaults
		p.srv.cfg.Guard = &watch{guard.New(), guard.Policy{
			Address: guard.Budget{Minute: 10, Day: 50}, Subnet: guard.Budget{Minute: 30, Day: 150},
			Network: guard.Budget{Minute: 90, Day: 450}, User: guard.Budget{Minute: 20, Day: 200},
			Delay: time.Second, MaxDelay: 10 * time.Second, Ban: 5 * time.Minute, MaxBan: 24 * time.Hour,
		}}
	case "StrictNewlines":
		p.srv.cfg.StrictNewlines = n == 1
	case "BareLF":
		p.srv.cfg.BareLF = n == 1
	case "PlaintextAuth":
		p.srv.cfg.PlaintextAuth = n == 1
	default:
		if !offer(p.srv.cfg, f[1], n) {
			reflect.ValueOf(&p.srv.cfg.Limits).Elem().FieldByName(f[1]).SetInt(n)
		}
	}
}

// offer sets what a server has to offer besides.
func offer(cfg *session.Config, name string, n int64) bool {
	o := &cfg.Offers
	switch name {
	case "Priorities": // others get no more than 0, or (2) hear that they may not, or (3) are put off
		o.Priorities = &session.Priorities{
			Policy: "MIXER", Own: 6, Lowest: -5, Refuse: n == 2, Sizes: []session.PrioritySize{{Priority: 5, Size: 1000}}, Field: true,
		}
		if n == 3 {
			o.Priorities.Lowest = 1
		}
	case "DeliverBy":
		o.DeliverBy, o.LeastTime = true, time.Duration(n)*time.Second
	case "ValidSince":
		o.ValidSince = n == 1
	case "VRFY":
		o.VRFY = session.Audience(n)
	case "EXPN":
		o.EXPN = session.Audience(n)
	case "Help":
		cfg.Help = strings.Repeat("write to the postmaster\n", int(n)-1) + "or not"
	default:
		return false
	}
	return true
}

func (p *player) flush() {
	if p.unsent == "" {
		return
	}
	text, pause := p.unsent, p.pause
	p.unsent = ""
	p.sent = time.Now()
	p.out <- func(c net.Conn) error {
		if pause == 0 {
			_, err := c.Write([]byte(text))
			return err
		}
		for i := range len(text) {
			if _, err := c.Write([]byte{text[i]}); err != nil {
				return err
			}
			time.Sleep(pause)
		}
		return nil
	}
}

func (p *player) line(n int, l string) {
	p.t.Helper()
	if l == "" || l[0] == '#' {
		return
	}
	kind, arg := l[:2], strings.TrimPrefix(l[2:], " ")
	switch kind {
	case "C:":
		p.audit.said(arg, p.last)
		p.unsent += arg + "\r\n"
		return
	case "C>":
		p.unsent += p.unquote(arg)
		return
	}
	p.flush()
	switch kind {
	case "P:":
		p.pause = p.duration(arg)
	case "W:":
		time.Sleep(p.duration(arg))
		p.sent = time.Now()
	case "F:":
		p.connect(arg)
	case "O:":
		f := strings.SplitN(arg, " ", 3)
		p.others(n, p.number(f[0]), f[1], f[2])
	case "N:":
		times, want, _ := strings.Cut(arg, " ")
		for range p.number(times) {
			p.want(n, want)
		}
	case "S:":
		p.want(n, arg)
	default:
		p.check(n, kind, arg)
	}
}

// check is for lines that look at what has happened.
func (p *player) check(n int, kind, arg string) {
	p.t.Helper()
	switch kind {
	case "S~", "S!":
		if strings.Contains(p.last, arg) != (kind == "S~") {
			p.t.Fatalf("line %d: %s %s, got %q", n, kind, arg, p.last)
		}
	case "T:":
		if took := time.Since(p.sent); took != p.duration(arg) {
			p.t.Fatalf("line %d: the reply took %v, want %s", n, took, arg)
		}
	case "X:":
		if got := p.client.reply(); got != "" {
			p.t.Fatalf("line %d: want the end, got %q", n, got)
		}
	case "E:":
		if got := len(p.srv.messages()[p.seen-1].env.Recipients); got != p.number(arg) {
			p.t.Fatalf("line %d: %d recipients", n, got)
		}
	case "R:":
		if got := p.srv.messages()[p.seen-1].received; !strings.Contains(got, arg) {
			p.t.Fatalf("line %d: Received is %q", n, got)
		}
	case "L~", "L!":
		synctest.Wait()
		if strings.Contains(p.log.String(), arg) != (kind == "L~") {
			p.t.Fatalf("line %d: %s %s, the log is\n%s", n, kind, arg, p.log.String())
		}
	case "M:":
		p.message(n, p.unquote(arg))
	case "K:":
		code, most, _ := strings.Cut(arg, " ")
		got := 0
		for _, r := range p.replies {
			if strings.HasPrefix(r, code) {
				got++
			}
		}
		if least, most, _ := strings.Cut(most, " "); got < p.number(least) || got > p.number(most) {
			p.t.Fatalf("line %d: %d replies were %s", n, got, code)
		}
	case "H:":
		synctest.Wait()
		if got := heap() - uint64(p.log.Cap()); got > p.heap+uint64(p.number(arg))<<20 {
			p.t.Fatalf("line %d: the heap has grown by %d MiB", n, (got-p.heap)>>20)
		}
	default:
		p.t.Fatalf("line %d: %s %q", n, kind, arg)
	}
}

// want reads a reply.
func (p *player) want(n int, want string) {
	p.t.Helper()
	if p.last, p.held = p.held, ""; p.last == "" {
		p.last = p.client.reply()
	}
	lines := strings.Split(strings.TrimSuffix(p.last, "\r\n"), "\r\n")
	if p.last == "" && !strings.HasSuffix(want, "|") || !slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool { return strings.HasPrefix(lines[len(lines)-1], w) }) {
		p.t.Fatalf("line %d: want %q, got %q", n, want, p.last)
	}
	p.replies = append(p.replies, p.last)
	p.audit.reply(p.t, p.last)
}

// others come beside the client of the dialogue, and stay.
func (p *player) others(n, times int, from, want string) {
	p.t.Helper()
	for i := range times {
		c := p.dial(numbered(from, i))
		p.open = append(p.open, c)
		if want == "-" { // nothing is said before TLS
			synctest.Wait()
			continue
		}
		if got := newClient(p.t, c).reply(); !strings.HasPrefix(got, want) {
			p.t.Fatalf("line %d: %d is greeted with %q, want %q", n, i, got, want)
		}
	}
}

func (p *player) message(n int, want string) {
	p.t.Helper()
	synctest.Wait()
	ms := p.srv.messages()
	if len(ms) <= p.seen {
		p.t.Fatalf("line %d: no message", n)
	}
	if got := ms[p.seen].body; got != want && want != "" {
		p.t.Fatalf("line %d: message is %q, want %q", n, got, want)
	}
	p.seen++
}

func (p *player) number(s string) int {
	p.t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *player) duration(s string) time.Duration {
	p.t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) unquote(s string) string {
	p.t.Helper()
	times := ""
	if i := strings.LastIndex(s, `"*`); i > 0 {
		s, times = s[:i+1], s[i+2:]
	}
	u, err := strconv.Unquote(s)
	if err != nil {
		p.t.Fatalf("%q: %v", s, err)
	}
	if times != "" {
		u = repeat(u, p.number(times))
	}
	return u
}

// gate is an Admission with limits of its own.
type gate struct {
	admission.Gate
	limits admission.Limits
}

func (g *gate) Enter(ip netip.Addr) (func(), *mail.Reply) { return g.Gate.Enter(ip, false, &g.limits) }
func (g *gate) Message(ip netip.Addr) *mail.Reply         { return g.Gate.Message(ip, false, &g.limits) }
func (g *gate) Crowded() bool                             { return g.Gate.Crowded(&g.limits) }
