//go:build linux

package interop

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A contender is one of the servers that are compared.
type contender struct {
	name  string
	addr  string
	box   string // the Maildir of user@example.test
	sink  *counter
	group group
}

// A workload is what each of them is given.
type workload struct {
	name     string
	relay    bool
	load     load
	measured map[string][]figures
}

func workloads() []*workload {
	all := []*workload{
		{name: "to Maildir, 4 KiB, 1 connection", load: load{connections: 1, messages: 400, size: 4 << 10}},
		{name: "to Maildir, 4 KiB, 10 connections", load: load{connections: 10, messages: 1500, size: 4 << 10}},
		{name: "to Maildir, 4 KiB, 50 connections", load: load{connections: 50, messages: 3000, size: 4 << 10}},
		{name: "to Maildir, 1 MiB, 4 connections", load: load{connections: 4, messages: 120, size: 1 << 20}},
		{name: "relayed, 4 KiB, 10 connections", relay: true, load: load{connections: 10, messages: 1500, size: 4 << 10}},
		{name: "relayed, 4 KiB, 50 connections", relay: true, load: load{connections: 50, messages: 3000, size: 4 << 10}},
		{name: "relayed, 1 MiB, 4 connections", relay: true, load: load{connections: 4, messages: 120, size: 1 << 20}},
	}
	for _, w := range all {
		w.measured = map[string][]figures{}
	}
	return all
}

// figures are what one run showed.
type figures struct {
	accepted float64       // messages a second, to the last reply
	arrived  float64       // to the last message at its end
	cpu      time.Duration // a message
}

// TestBeside compares us with Postfix, run by run, and writes the medians to the
// page on performance. CADDY_SMTP_BENCH is the number of runs.
func TestBeside(t *testing.T) {
	runs, _ := strconv.Atoi(os.Getenv("CADDY_SMTP_BENCH"))
	if runs == 0 {
		t.Skip("make bench sets CADDY_SMTP_BENCH")
	}
	journaled(t)
	all := []*contender{benchedCaddy(t), benchedPostfix(t)}
	works := workloads()
	for i := range runs + 1 {
		for j, w := range works {
			for k := range all { // who is first changes
				c := all[(i+j+k)%len(all)]
				f := c.run(t, w)
				t.Logf("run %d, %-8s %-34s %6.0f/s accepted, %6.0f/s arrived, %v a message", i, c.name, w.name, f.accepted, f.arrived, f.cpu)
				if i > 0 { // the first warms up
					w.measured[c.name] = append(w.measured[c.name], f)
				}
			}
		}
	}
	report(t, works, runs)
}

// run gives a workload to one of them, and waits until all has arrived.
func (c *contender) run(t *testing.T, w *workload) figures {
	t.Helper()
	l := w.load
	l.addr, l.to = c.addr, "user@example.test"
	arrived := func() int { return entries(t, filepath.Join(c.box, "new")) }
	if w.relay {
		l.to = "user@far.test"
		before := c.sink.taken.Load()
		arrived = func() int { return int(c.sink.taken.Load() - before) }
	} else if err := os.RemoveAll(c.box); err != nil {
		t.Fatal(err)
	}
	used := c.group.used(t)
	began := time.Now()
	accepted := l.send(t)
	for arrived() < l.messages {
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("%s, %s: %d of %d have arrived", c.name, w.name, arrived(), l.messages)
		}
		time.Sleep(3 * time.Millisecond)
	}
	took := time.Since(began)
	time.Sleep(300 * time.Millisecond) // what is still to be tidied up counts
	n := float64(l.messages)
	return figures{n / accepted.Seconds(), n / took.Seconds(), (c.group.used(t) - used) / time.Duration(l.messages)}
}

func entries(t *testing.T, dir string) int {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(files)
}

// journaled puts all folders of the test on an ext4 of their own, with a journal
// as most servers have it.
func journaled(t *testing.T) {
	t.Helper()
	needRoot(t, "mounting a file system")
	need(t, "mkfs.ext4", "mount", "umount")
	image, dir := filepath.Join(t.TempDir(), "image"), openDir(t)
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(6 << 30); err != nil {
		t.Fatal(err)
	}
	f.Close()
	run(t, "", "mkfs.ext4", "-q", "-F", image)
	if r := try(t, "", "mount", "-o", "loop", image, dir); r.code != 0 {
		missing(t, "a loop device: "+r.out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	t.Setenv("TMPDIR", dir)
}

func benchedCaddy(t *testing.T) *contender {
	t.Helper()
	h := newHost(t)
	h.group = newGroup(t, "caddy")
	c := &contender{name: "caddy", addr: h.addr("mx"), box: h.inbox("user"), sink: new(counter), group: h.group}
	c.sink.serve(t, h.addr("sink"))
	h.serve(boxes+`
	agent out relay ADDR(sink) {
		tls off
	}
	server mx ADDR(mx) {
		tls internal`+local+`
		limits {
			messages none
		}
		relay {
			agent out
			trust 127.0.0.0/8
		}
	}`, "mx")
	return c
}

func benchedPostfix(t *testing.T) *contender {
	t.Helper()
	h := newHost(t) // for its addresses
	p := newPostfix(t, h.addr("postfix"),
		"virtual_mailbox_domains = example.test",
		"virtual_mailbox_base = DIR/mail",
		"virtual_mailbox_maps = static:user/",
		"virtual_uid_maps = static:65534",
		"virtual_gid_maps = static:65534",
		"virtual_mailbox_limit = 0",
		"transport_maps = inline:{ far.test=smtp:[127.0.0.1]:"+h.port("sink")+" }",
		"message_size_limit = 52428800",
		"default_process_limit = 200",
		"smtp_tls_security_level = none")
	p.group = newGroup(t, "postfix")
	c := &contender{name: "Postfix", addr: p.addr, box: p.box("user"), sink: new(counter), group: p.group}
	c.sink.serve(t, h.addr("sink"))
	p.start()
	return c
}

// Where the page has the figures.
const (
	performance = "../../docs/performance.md"
	tableBegin  = "<!-- make bench writes what follows -->\n"
	tableEnd    = "<!-- until here -->\n"
)

func report(t *testing.T, works []*workload, runs int) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "\nMedians of %d runs each, in turn, on %d CPUs; %s.\n\n", runs, runtime.NumCPU(),
		strings.TrimSpace(run(t, "", "postconf", "-d", "mail_version")))
	b.WriteString("| | accepted/s | of Postfix's | arrived/s | of Postfix's | CPU a message | of Postfix's |\n|---|---|---|---|---|---|---|\n")
	for _, w := range works {
		us, them := w.measured["caddy"], w.measured["Postfix"]
		accepted := func(f figures) float64 { return f.accepted }
		arrived := func(f figures) float64 { return f.arrived }
		cpu := func(f figures) float64 { return f.cpu.Seconds() * 1000 }
		fmt.Fprintf(&b, "| %s | %.0f | %.1f | %.0f | %.1f | %.2f ms | %.2f |\n", w.name,
			median(us, accepted), median(us, accepted)/median(them, accepted),
			median(us, arrived), median(us, arrived)/median(them, arrived),
			median(us, cpu), median(us, cpu)/median(them, cpu))
	}
	t.Log(b.String())
	text, err := os.ReadFile(performance)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", performance)
	}
	if err := os.WriteFile(performance, []byte(before+tableBegin+b.String()+"\n"+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func median(all []figures, of func(figures) float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	var v []float64
	for _, f := range all {
		v = append(v, of(f))
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
