package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// maxBatch bounds how many changes share a transaction.
const maxBatch = 256

// A writer is the goroutine that writes, and its connection.
type writer struct {
	s    *Store
	db   *sql.DB
	conn *sql.Conn
	stmt map[string]*sql.Stmt
	ops  chan *op
	done sync.WaitGroup

	mu     sync.RWMutex // held while something is put into ops
	closed bool
}

// An op is a change and whom to tell.
type op struct {
	change *queue.Change
	files  map[*message.Body]string // where spooled bodies have been put
	gone   []string                 // files to remove after the commit
	err    error
	result chan error
}

// The statements, by what they do.
var statements = map[string]string{
	"begin":    "begin immediate",
	"commit":   "commit",
	"rollback": "rollback",
	"content":  "insert into content (size, sum, inline, file, eight_bit, nul, longest) values (?,?,?,?,?,?,?)",
	"entry":    "insert into entry (id, queued, sender, envelope, envelope_crc, header, header_crc, content) values (?,?,?,?,?,?,?,?)",
	"rcpt":     "insert into recipient (entry, idx, address, agent, detail, detail_crc, held, reason, due, bin, speak) values (?,?,?,?,?,?,?,?,?,?,?)",
	"later":    "update recipient set attempts=?, due=?, held=?, reason=?, noticed=?, code=?, enh=?, reply=?, remote=?, history=?, starts=?, bin=?, speak=? where entry=? and idx=?",
	"mark":     "update recipient set agent=coalesce(nullif(?,''),agent), wish=? where entry=? and idx=?",
	"done":     "delete from recipient where entry=? and idx=?",
	"left":     "select exists (select 1 from recipient where entry=?)",
	"body":     "select content from entry where id=?",
	"remove":   "delete from entry where id=?",
	"shared":   "select exists (select 1 from entry where content=?)",
	"file":     "select coalesce(file,'') from content where id=?",
	"forget":   "delete from content where id=?",
}

func newWriter(db *sql.DB, s *Store) (*writer, error) {
	conn, err := db.Conn(context.Background())
	if err != nil {
		return nil, err
	}
	w := &writer{s: s, db: db, conn: conn, stmt: map[string]*sql.Stmt{}, ops: make(chan *op, maxBatch)}
	for name, text := range statements {
		if w.stmt[name], err = conn.PrepareContext(context.Background(), text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	w.done.Go(w.run)
	return w, nil
}

// commit waits until a change is on disk. The change is made even if ctx ends
// meanwhile: whether it was would be unknown otherwise.
func (w *writer) commit(_ context.Context, c *queue.Change) error {
	o := &op{change: c, files: map[*message.Body]string{}, result: make(chan error, 1)}
	err := w.place(o)
	if err == nil {
		err = w.submit(o)
	}
	if err != nil {
		for _, f := range o.files {
			os.Remove(w.s.path("content", f))
		}
		return err
	}
	for b := range o.files {
		os.Remove(b.File().Name()) // it has its other name
		b.Keep()
		b.File().Close()
	}
	return nil
}

// submit gives an op to the writer and waits for it.
func (w *writer) submit(o *op) error {
	w.mu.RLock()
	if w.closed {
		w.mu.RUnlock()
		return queue.ErrClosed
	}
	w.ops <- o
	w.mu.RUnlock()
	return <-o.result
}

// place puts spooled bodies where they stay, so that the commit can name them.
// A file that could not be synced is not tried again: it goes with the error. It
// has its name before it is synced, as most file systems then make both durable at
// once, and have nothing left to do for the directory.
func (w *writer) place(o *op) error {
	for _, e := range o.change.Add {
		b := e.Content.Body()
		f := b.File()
		if f == nil || o.files[b] != "" {
			continue
		}
		if err := os.Link(f.Name(), w.s.path("content", e.ID)); err != nil {
			return err
		}
		o.files[b] = e.ID
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if len(o.files) == 0 {
		return nil
	}
	return syncDir(w.s.path("content"))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (w *writer) run() {
	for o := range w.ops {
		w.batch(o)
	}
}

// batch writes what waits in one transaction.
func (w *writer) batch(first *op) {
	ops := []*op{first}
gather:
	for len(ops) < maxBatch {
		select {
		case o, ok := <-w.ops:
			if !ok {
				break gather
			}
			ops = append(ops, o)
		default:
			break gather
		}
	}
	err := w.transaction(ops)
	if err == nil {
		w.finish(ops)
		return
	}
	for _, o := range ops {
		o.err = err
		if len(ops) > 1 && !common(err) { // one of them may be at fault: each for itself
			o.err = w.alone(o)
		}
		if full(o.err) && len(o.change.Update)+len(o.change.Mark) > 0 && w.s.ballast.drop() {
			o.err = w.alone(o)
		}
	}
	w.finish(ops)
}

func (w *writer) alone(o *op) error {
	o.gone = nil
	return w.transaction([]*op{o})
}

// finish tells who waits, and removes the files of what is gone.
func (w *writer) finish(ops []*op) {
	for _, o := range ops {
		o.result <- o.err
	}
	for _, o := range ops {
		for _, f := range o.gone {
			if o.err == nil {
				os.Remove(w.s.path("content", f))
			}
		}
	}
}

func (w *writer) transaction(ops []*op) (err error) {
	if err := w.exec("begin"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = w.exec("rollback") // the first error tells more
		}
	}()
	for _, o := range ops {
		if err := w.apply(o); err != nil {
			return err
		}
	}
	return w.exec("commit")
}

func (w *writer) exec(name string, args ...any) error {
	_, err := w.stmt[name].Exec(args...)
	return err
}

func (w *writer) apply(o *op) error {
	bodies := map[*message.Body]int64{}
	for _, e := range o.change.Add {
		if err := w.add(e, o, bodies); err != nil {
			return err
		}
	}
	entries := map[string]bool{}
	for _, r := range o.change.Update {
		if err := w.update(r); err != nil {
			return err
		}
		if r.Done {
			entries[r.Entry] = true
		}
	}
	for _, m := range o.change.Mark {
		if err := w.exec("mark", m.Agent, m.Wish, m.Entry, m.Index); err != nil {
			return err
		}
	}
	for id := range entries {
		if err := w.sweep(id, o); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) add(e *queue.Entry, o *op, bodies map[*message.Body]int64) error {
	b := e.Content.Body()
	if bodies[b] == 0 {
		var inline any
		var file any
		if data, ok := b.Bytes(); ok {
			if data == nil {
				data = []byte{}
			}
			inline = data
		} else {
			file = o.files[b]
		}
		sum, st := b.Sum(), b.Stats()
		res, err := w.stmt["content"].Exec(b.Size(), []byte(sum), inline, file, st.EightBit, st.NUL, st.LongestLine)
		if err != nil {
			return err
		}
		if bodies[b], err = res.LastInsertId(); err != nil {
			return err
		}
	}
	env, err := json.Marshal(e.Envelope)
	if err != nil {
		return err
	}
	header := e.Content.Header.Bytes()
	if err := w.exec("entry", e.ID, e.Queued.UnixMicro(), e.Envelope.From.String(), string(env), crc(env), header, crc(header), bodies[b]); err != nil {
		return err
	}
	for _, r := range e.Recipients {
		detail, err := json.Marshal(r.Recipient)
		if err != nil {
			return err
		}
		if err := w.exec("rcpt", e.ID, r.Index, r.Address.String(), r.Agent, string(detail), crc(detail), r.Held, r.Reason, r.Due.UnixMicro(), r.Bin, micro(r.Speak)); err != nil {
			return err
		}
	}
	return nil
}

// crc finds out damage to what has no better sum: SQLite has none of its own.
func crc(b []byte) int64 { return int64(crc32.Checksum(b, castagnoli)) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (w *writer) update(r *queue.Recipient) error {
	if r.Done {
		return w.exec("done", r.Entry, r.Index)
	}
	reply := r.Last.Reply
	if reply == nil {
		reply = new(mail.Reply)
	}
	history, err := pack(r.History)
	if err != nil {
		return err
	}
	return w.exec("later", r.Attempts, r.Due.UnixMicro(), r.Held, r.Reason, r.Noticed, reply.Code, reply.Enh, reply.Text, r.Last.RemoteMTA,
		history, r.Starts, r.Bin, micro(r.Speak), r.Entry, r.Index)
}

// micro is a time as it is stored, 0 for none.
func micro(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// pack returns a history as it is stored.
func pack(as []queue.Attempt) (string, error) {
	if len(as) == 0 {
		return "", nil
	}
	b, err := json.Marshal(as)
	return string(b), err
}

// sweep removes an entry that has no recipient left, and its body if no other
// entry has it.
func (w *writer) sweep(id string, o *op) error {
	var more bool
	if err := w.stmt["left"].QueryRow(id).Scan(&more); err != nil || more {
		return err
	}
	var content int64
	if err := w.stmt["body"].QueryRow(id).Scan(&content); err != nil {
		if err == sql.ErrNoRows {
			return nil
		}
		return err
	}
	if err := w.exec("remove", id); err != nil {
		return err
	}
	if err := w.stmt["shared"].QueryRow(content).Scan(&more); err != nil || more {
		return err
	}
	var file string
	if err := w.stmt["file"].QueryRow(content).Scan(&file); err != nil {
		return err
	}
	if file != "" {
		o.gone = append(o.gone, file)
	}
	return w.exec("forget", content)
}

func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.ops)
	w.done.Wait()
	var errs []error
	for _, st := range w.stmt { // else SQLite keeps the connection, and its files
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, w.conn.Close(), w.db.Close())...)
}
