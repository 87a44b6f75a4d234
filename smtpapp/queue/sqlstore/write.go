package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"sync"

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
	quit chan struct{}
	done sync.WaitGroup
}

// An op is a change and whom to tell.
type op struct {
	change *queue.Change
	files  map[*message.Body]string // where spooled bodies have been put
	gone   []string                 // files to remove after the commit
	result chan error
}

// The statements, by what they do.
var statements = map[string]string{
	"begin":    "begin immediate",
	"commit":   "commit",
	"rollback": "rollback",
	"content":  "insert into content (size, sha256, inline, file, eight_bit, nul, longest) values (?,?,?,?,?,?,?)",
	"entry":    "insert into entry (id, queued, sender, envelope, header, content) values (?,?,?,?,?,?)",
	"rcpt":     "insert into recipient (entry, idx, address, agent, detail, held, due) values (?,?,?,?,?,?,?)",
	"later":    "update recipient set attempts=?, due=?, held=?, code=?, enh=?, reply=?, remote=? where entry=? and idx=?",
	"done":     "delete from recipient where entry=? and idx=?",
	"noticed":  "update entry set noticed=1 where id=?",
	"left":     "select count(*) from recipient where entry=?",
	"body":     "select content from entry where id=?",
	"remove":   "delete from entry where id=?",
	"shared":   "select count(*) from entry where content=?",
	"file":     "select coalesce(file,'') from content where id=?",
	"forget":   "delete from content where id=?",
}

func newWriter(db *sql.DB, s *Store) (*writer, error) {
	conn, err := db.Conn(context.Background())
	if err != nil {
		return nil, err
	}
	w := &writer{s: s, db: db, conn: conn, stmt: map[string]*sql.Stmt{}, ops: make(chan *op, maxBatch), quit: make(chan struct{})}
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
	if err := w.place(o); err != nil {
		return err
	}
	select {
	case w.ops <- o:
	case <-w.quit:
		return queue.ErrClosed
	}
	err := <-o.result
	if err != nil {
		for _, f := range o.files {
			os.Remove(w.s.path("content", f))
		}
		return err
	}
	for b := range o.files {
		b.Keep()
		if f := b.File(); f != nil {
			f.Close()
		}
	}
	return nil
}

// place puts spooled bodies where they stay, so that the commit can name them.
func (w *writer) place(o *op) error {
	for _, e := range o.change.Add {
		b := e.Content.Body()
		f := b.File()
		if f == nil || o.files[b] != "" {
			continue
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := os.Link(f.Name(), w.s.path("content", e.ID)); err != nil {
			return err
		}
		o.files[b] = e.ID
		os.Remove(f.Name())
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
	for {
		select {
		case o := <-w.ops:
			w.batch(o)
		case <-w.quit:
			for {
				select {
				case o := <-w.ops:
					w.batch(o)
				default:
					return
				}
			}
		}
	}
}

// batch writes what waits in one transaction.
func (w *writer) batch(first *op) {
	ops := []*op{first}
gather:
	for len(ops) < maxBatch {
		select {
		case o := <-w.ops:
			ops = append(ops, o)
		default:
			break gather
		}
	}
	err := w.transaction(ops)
	if err != nil && len(ops) > 1 { // one of them may be at fault: each for itself
		for _, o := range ops {
			o.gone = nil
			o.result <- w.transaction([]*op{o})
		}
		return
	}
	for _, o := range ops {
		if err == nil {
			for _, f := range o.gone {
				os.Remove(w.s.path("content", f))
			}
		}
		o.result <- err
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
	for _, id := range o.change.Noticed {
		if err := w.exec("noticed", id); err != nil {
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
		res, err := w.stmt["content"].Exec(b.Size(), sum[:], inline, file, st.EightBit, st.NUL, st.LongestLine)
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
	if err := w.exec("entry", e.ID, e.Queued.UnixMicro(), e.Envelope.From.String(), string(env), e.Content.Header.Bytes(), bodies[b]); err != nil {
		return err
	}
	for _, r := range e.Recipients {
		detail, err := json.Marshal(r.Recipient)
		if err != nil {
			return err
		}
		if err := w.exec("rcpt", e.ID, r.Index, r.Address.String(), r.Agent, string(detail), r.Held, r.Due.UnixMicro()); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) update(r *queue.Recipient) error {
	if r.Done {
		return w.exec("done", r.Entry, r.Index)
	}
	reply := r.Last.Reply
	if reply == nil {
		reply = new(mail.Reply)
	}
	return w.exec("later", r.Attempts, r.Due.UnixMicro(), r.Held, reply.Code, reply.Enh, reply.Text, r.Last.RemoteMTA, r.Entry, r.Index)
}

// sweep removes an entry that has no recipient left, and its body if no other
// entry has it.
func (w *writer) sweep(id string, o *op) error {
	var n, content int64
	if err := w.stmt["left"].QueryRow(id).Scan(&n); err != nil || n > 0 {
		return err
	}
	if err := w.stmt["body"].QueryRow(id).Scan(&content); err != nil {
		if err == sql.ErrNoRows {
			return nil
		}
		return err
	}
	if err := w.exec("remove", id); err != nil {
		return err
	}
	if err := w.stmt["shared"].QueryRow(content).Scan(&n); err != nil || n > 0 {
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
	close(w.quit)
	w.done.Wait()
	err := w.conn.Close()
	if e := w.db.Close(); err == nil {
		err = e
	}
	return err
}
