package clienttest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// A session is one connection to the server.
type session struct {
	s  *Server
	nc net.Conn
	r  *bufio.Reader
	w  *bufio.Writer

	tls, over bool
	msg       Message // the transaction under way
	chunks    bytes.Buffer
	lastBad   bool // a line end was wrong
}

// Serve speaks with one client, over any connection, and closes it.
func (s *Server) Serve(nc net.Conn) {
	defer nc.Close()
	ss := &session{s: s, nc: nc}
	if s.opts.Implicit {
		ss.nc, ss.tls = tls.Server(nc, s.opts.TLS), true
	}
	ss.layer()
	ss.at("connect", "220 sink.test ESMTP")
	for !ss.over {
		line, err := ss.line()
		if err != nil {
			return
		}
		ss.command(line)
	}
	ss.w.Flush()
}

func (ss *session) layer() {
	ss.r, ss.w = bufio.NewReader(ss.nc), bufio.NewWriter(ss.nc)
}

// line reads a line, once all replies are sent.
func (ss *session) line() (string, error) {
	if ss.r.Buffered() == 0 {
		ss.w.Flush()
	}
	line, err := ss.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if ss.lastBad = !ok || strings.Contains(text, "\r"); ss.lastBad {
		text = strings.TrimRight(text, "\r\n")
	}
	return text, nil
}

func (ss *session) reply(s string) {
	for line := range strings.SplitSeq(s, "\n") {
		ss.w.WriteString(line)
		if !strings.Contains(line, "\r") {
			ss.w.WriteString("\r\n")
		}
	}
}

// at gives the reply of the rule for point, or usual. It reports whether
// things take their usual course.
func (ss *session) at(point, usual string) bool {
	r, ok := ss.s.rule(point)
	if r.Delay > 0 {
		ss.w.Flush()
		ss.s.sleep(r.Delay)
	}
	if !ok || r.Reply == "" && !r.Close {
		if usual != "" {
			ss.reply(usual)
		}
		return true
	}
	if r.Reply != "" {
		ss.reply(r.Reply)
	}
	if r.Close {
		ss.w.Flush()
		ss.over = true
	}
	return strings.HasPrefix(r.Reply, "2") || strings.HasPrefix(r.Reply, "3")
}

func (ss *session) command(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	ss.note(verb, line)
	if ss.lastBad {
		ss.reply("500 5.5.2 bare CR or LF")
		ss.over = true
		return
	}
	switch verb {
	case "EHLO", "LHLO", "HELO":
		ss.hello(verb, arg, line)
	case "STARTTLS":
		ss.startTLS(line)
	case "AUTH":
		ss.auth(arg, line)
	case "MAIL":
		ss.mail(arg, line)
	case "RCPT":
		ss.rcpt(arg, line)
	case "DATA":
		ss.data(line)
	case "BDAT":
		ss.bdat(arg, line)
	case "RSET":
		ss.at(line, "250 2.0.0 reset")
		ss.reset()
	case "NOOP":
		ss.at(line, "250 2.0.0 ok")
	case "QUIT":
		ss.at(line, "221 2.0.0 bye")
		ss.over = true
	default:
		ss.at(line, "500 5.5.1 what?")
	}
}

func (ss *session) note(verb, line string) {
	ss.s.mu.Lock()
	defer ss.s.mu.Unlock()
	if f := strings.Fields(line); verb == "AUTH" && len(f) > 2 {
		line = f[0] + " " + f[1] + " …"
	}
	ss.s.commands = append(ss.s.commands, line)
}

func (ss *session) reset() {
	ss.msg = Message{Hello: ss.msg.Hello, User: ss.msg.User, TLS: ss.tls}
	ss.chunks.Reset()
}

func (ss *session) hello(verb, arg, line string) {
	if (verb == "LHLO") != ss.s.opts.LMTP {
		ss.reply("500 5.5.1 wrong protocol")
		return
	}
	lines := []string{"sink.test"}
	if verb != "HELO" {
		lines = append(lines, ss.s.opts.Extensions...)
		if ss.s.opts.TLS != nil && !ss.tls {
			lines = append(lines, "STARTTLS")
		}
		if ss.s.opts.Users != nil {
			lines = append(lines, "AUTH "+ss.s.opts.Auth)
		}
	}
	last := len(lines) - 1
	for i := range lines {
		lines[i] = "250" + map[bool]string{true: " ", false: "-"}[i == last] + lines[i]
	}
	if ss.at(line, strings.Join(lines, "\n")) {
		ss.msg.Hello = arg
		ss.reset()
	}
}

func (ss *session) startTLS(line string) {
	if ss.s.opts.TLS == nil || ss.tls {
		ss.reply("502 5.5.1 no TLS")
		return
	}
	if !ss.at(line, "220 2.0.0 go ahead") || ss.over {
		return
	}
	ss.w.Flush()
	t := tls.Server(ss.nc, ss.s.opts.TLS)
	if t.Handshake() != nil {
		ss.over = true
		return
	}
	ss.nc, ss.tls, ss.msg = t, true, Message{}
	ss.layer()
}

func (ss *session) auth(arg, line string) {
	var user, pass string
	mech, initial, _ := strings.Cut(arg, " ")
	switch strings.ToUpper(mech) {
	case "PLAIN":
		if initial == "" {
			initial = ss.challenge("")
		}
		part := strings.Split(unbase64(initial), "\x00")
		if len(part) == 3 {
			user, pass = part[1], part[2]
		}
	case "LOGIN":
		user, pass = unbase64(ss.challenge("Username:")), unbase64(ss.challenge("Password:"))
	}
	usual := "535 5.7.8 no"
	want, ok := ss.s.opts.Users[user]
	if ok = ok && want == pass; ok {
		usual = "235 2.7.0 welcome"
	}
	if ss.at(line, usual) && ok {
		ss.msg.User = user
	}
}

func (ss *session) challenge(s string) string {
	ss.reply("334 " + base64.StdEncoding.EncodeToString([]byte(s)))
	line, _ := ss.line()
	return line
}

func unbase64(s string) string {
	b, _ := base64.StdEncoding.DecodeString(s)
	return string(b)
}

func (ss *session) mail(arg, line string) {
	switch {
	case ss.s.opts.Users != nil && ss.msg.User == "":
		ss.reply("530 5.7.0 authentication required")
	case ss.msg.Mail != "" || ss.msg.Hello == "":
		ss.reply("503 5.5.1 not now")
	case ss.at(line, "250 2.1.0 ok"):
		ss.msg.Mail = arg[min(len(arg), len("FROM:")):]
	}
}

func (ss *session) rcpt(arg, line string) {
	if ss.msg.Mail == "" {
		ss.reply("503 5.5.1 MAIL first")
		return
	}
	if !ss.at(line, "250 2.1.5 ok") {
		return
	}
	rest := arg[min(len(arg), len("TO:")):]
	ss.msg.Rcpt = append(ss.msg.Rcpt, rest)
	addr, _, _ := strings.Cut(strings.TrimPrefix(rest, "<"), ">")
	ss.msg.Recipients = append(ss.msg.Recipients, addr)
}

func (ss *session) data(line string) {
	if r, ok := ss.s.rule(line); ok && (r.Reply != "" || r.Close) {
		if r.Reply != "" {
			ss.reply(r.Reply)
		}
		if ss.over = r.Close; !strings.HasPrefix(r.Reply, "354") {
			return
		}
	} else if len(ss.msg.Rcpt) == 0 {
		ss.reply("503 5.5.1 RCPT first")
		return
	} else {
		ss.s.sleep(r.Delay)
		ss.reply("354 go ahead")
	}
	bad := false
	var b bytes.Buffer
	for n := 0; ; n++ {
		text, err := ss.line()
		if err != nil || n == 0 && !ss.content() {
			ss.over = true
			return
		}
		bad = bad || ss.lastBad
		if text == "." && !ss.lastBad {
			break
		}
		b.WriteString(strings.TrimPrefix(text, "."))
		b.WriteString("\r\n")
	}
	ss.msg.Content = b.Bytes()
	ss.finish(bad)
}

// content is the point at which content begins to come.
func (ss *session) content() bool {
	ss.at("content", "")
	ss.w.Flush()
	return !ss.over
}

func (ss *session) bdat(arg, line string) {
	size, last, _ := strings.Cut(arg, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		ss.reply("501 5.5.4 chunk size")
		ss.over = true
		return
	}
	if ss.msg.Chunks == 0 && !ss.content() {
		return
	}
	if _, err := io.CopyN(&ss.chunks, ss.r, n); err != nil {
		ss.over = true
		return
	}
	ss.msg.Chunks++
	if len(ss.msg.Rcpt) == 0 {
		ss.reply("503 5.5.1 RCPT first")
		return
	}
	if last == "" {
		ss.at(line, fmt.Sprintf("250 2.0.0 %d octets", n))
		return
	}
	ss.msg.Content = bytes.Clone(ss.chunks.Bytes())
	rest := bytes.ReplaceAll(ss.chunks.Bytes(), []byte("\r\n"), nil)
	ss.finish(bytes.ContainsAny(rest, "\r\n") && !strings.Contains(ss.msg.Mail, "BINARYMIME"))
}

// finish answers a whole content and keeps it.
func (ss *session) finish(bad bool) {
	defer ss.reset()
	usual := "250 2.0.0 taken"
	if bad {
		usual = "554 5.6.11 bare CR or LF"
	}
	took := false
	if ss.s.opts.LMTP {
		for _, r := range ss.msg.Recipients {
			took = ss.at(". "+r, usual) || took
			if ss.over {
				break
			}
		}
	} else {
		took = ss.at(".", usual)
	}
	if took && !bad && len(ss.msg.Recipients) > 0 {
		ss.s.mu.Lock()
		ss.s.messages = append(ss.s.messages, ss.msg)
		ss.s.mu.Unlock()
	}
}
