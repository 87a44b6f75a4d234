package dovecot

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// maxRequests is how many wait for an answer at a time.
const maxRequests = 256

// A client asks over one connection, which it opens when somebody asks.
type client struct {
	dial  func(context.Context) (net.Conn, error)
	slots chan struct{}
	opens chan struct{} // held while connecting

	mu     sync.Mutex
	link   *link
	closed bool
}

func newClient(dial func(context.Context) (net.Conn, error)) *client {
	return &client{dial: dial, slots: make(chan struct{}, maxRequests), opens: make(chan struct{}, 1)}
}

var errClosed = errors.New("the configuration has ended")

// ask sends a request and waits for its answer. If the connection was there
// before and turns out to be dead, it asks again over another.
func (c *client) ask(ctx context.Context, params []string, response string) (answer, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return answer{}, errors.Join(errors.New("too many logins at a time"), ctx.Err())
	}
	for {
		l, kept, err := c.connected(ctx)
		if err != nil {
			return answer{}, err
		}
		a, err := l.ask(ctx, params, response)
		if err == nil || !kept || ctx.Err() != nil {
			return a, err
		}
	}
}

// connected returns the connection that is there, or a new one.
func (c *client) connected(ctx context.Context) (l *link, kept bool, err error) {
	select {
	case c.opens <- struct{}{}:
		defer func() { <-c.opens }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	c.mu.Lock()
	l, closed := c.link, c.closed
	c.mu.Unlock()
	if closed {
		return nil, false, errClosed
	}
	if l != nil && l.alive() {
		return l, true, nil
	}
	if l, err = open(ctx, c.dial); err != nil {
		return nil, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		l.close()
		return nil, false, errClosed
	}
	c.link = l
	return l, false, nil
}

func (c *client) close() {
	c.mu.Lock()
	l := c.link
	c.link, c.closed = nil, true
	c.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// A link is a connection that has been introduced.
type link struct {
	conn    net.Conn
	done    chan struct{} // closed when nothing more is read
	writing sync.Mutex

	mu      sync.Mutex
	last    uint32
	pending map[uint32]chan answer
	err     error // that ended it
}

// open connects and introduces itself. Dovecot tells its clients apart by a
// number, for which the process's will not do: two configurations may be there
// at a time.
func open(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*link, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	var n [4]byte
	if _, err := rand.Read(n[:]); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	r := newReader(conn)
	_, err = fmt.Fprintf(conn, "VERSION\t%s\t1\nCPID\t%d\n", major, binary.BigEndian.Uint32(n[:])>>1+1)
	if err == nil {
		err = readHandshake(r)
	}
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	l := &link{conn: conn, done: make(chan struct{}), pending: map[uint32]chan answer{}}
	go l.read(r)
	return l, nil
}

func (l *link) alive() bool {
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// close ends the connection, and waits until nobody reads from it.
func (l *link) close() {
	l.conn.Close()
	<-l.done
}

// read hands answers to those who wait, until the connection ends.
func (l *link) read(r *bufio.Reader) {
	for {
		f, err := readLine(r)
		if err != nil {
			l.end(err)
			return
		}
		if id, a := parseAnswer(f); id != 0 {
			if ch := l.take(id); ch != nil {
				ch <- a
			}
		}
	}
}

func (l *link) end(err error) {
	l.conn.Close()
	l.mu.Lock()
	l.err = err
	l.mu.Unlock()
	close(l.done)
}

func (l *link) take(id uint32) chan answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := l.pending[id]
	delete(l.pending, id)
	return ch
}

func (l *link) ask(ctx context.Context, params []string, response string) (answer, error) {
	id, ch := l.enter()
	defer l.take(id)
	if err := l.write(ctx, formatRequest(id, params, response)); err != nil {
		return answer{}, err
	}
	select {
	case a := <-ch:
		return a, nil
	case <-l.done:
		return l.rest(ch)
	case <-ctx.Done():
		l.write(context.Background(), fmt.Sprintf("CANCEL\t%d\n", id)) //nolint:errcheck // who reads finds out
		return answer{}, ctx.Err()
	}
}

// rest is the answer that came before the end, if one did.
func (l *link) rest(ch chan answer) (answer, error) {
	select {
	case a := <-ch:
		return a, nil
	default:
		l.mu.Lock()
		defer l.mu.Unlock()
		return answer{}, l.err
	}
}

func (l *link) enter() (uint32, chan answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.last++; l.last == 0 || l.pending[l.last] != nil; l.last++ {
	}
	ch := make(chan answer, 1)
	l.pending[l.last] = ch
	return l.last, ch
}

// writeWithin is how long Dovecot may take to read a request.
const writeWithin = 5 * time.Second

// write sends a line whole, or breaks the connection off.
func (l *link) write(ctx context.Context, line string) error {
	end := time.Now().Add(writeWithin)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.conn.SetWriteDeadline(end) //nolint:errcheck // the write tells
	_, err := l.conn.Write([]byte(line))
	if err != nil {
		l.conn.Close()
	}
	return err
}
