package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

const columns = `e.id, e.queued, e.envelope, e.envelope_crc, r.idx, r.address, r.agent, r.detail, r.detail_crc, r.held, r.noticed,
	r.attempts, r.due, r.code, r.enh, r.reply, r.remote, r.reason, r.wish, r.history,
	r.starts, r.bin, r.speak
	from entry e join recipient r on r.entry = e.id`

// ofBin has the recipients of chosen entries that wait in a bin and whose time,
// which is in a column, is in a range. The entries come in the order of their list.
func ofBin(column string) string {
	return "select " + columns + " join json_each(?1) j on e.id = j.value where r.bin = ?2 and r." + column + " > ?3 and r." + column + " <= ?4 order by j.key, r.idx"
}

// inOrder has the entries of what waits in a bin by the time that is in a column.
func inOrder(column string) string {
	return "select entry, " + column + " from recipient where bin <> 0 and bin = ?1 and " + column + " > ?2 order by " + column + " limit ?3"
}

// queries are the statements that read, by what they do, of which there are
// many a second: to prepare one takes longer than to run it.
var queries = map[string]string{
	"due": inOrder("due"), "of_due": ofBin("due"),
	"speak": inOrder("speak"), "of_speak": ofBin("speak"),
	"get": "select " + columns + " where e.id = ? order by r.idx",
	"content": `select e.header, e.header_crc, c.size, c.sum, c.inline, c.file, c.eight_bit, c.nul, c.longest
		from entry e join content c on c.id = e.content where e.id = ?`,
}

// Each calls f for all entries behind after, in the order of their ids.
func (s *Store) Each(ctx context.Context, after string, f func(*queue.Entry) bool) error {
	rows, err := s.read.QueryContext(ctx, "select "+columns+" where e.id > ? order by e.id, r.idx", after)
	if err != nil {
		return err
	}
	defer rows.Close()
	return s.entries(rows, f)
}

// entries calls f for the entries that rows are of.
func (s *Store) entries(rows *sql.Rows, f func(*queue.Entry) bool) error {
	var e *queue.Entry
	for rows.Next() {
		var w row
		if err := w.scan(rows); err != nil {
			return err
		}
		if e != nil && e.ID != w.id {
			if !f(finished(e)) {
				return nil
			}
			e = nil
		}
		w.addTo(&e)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if e != nil {
		f(finished(e))
	}
	return nil
}

// finished is an entry with all its recipients. If it is damaged they are held.
func finished(e *queue.Entry) *queue.Entry {
	if !e.Damaged {
		return e
	}
	e.Envelope = new(mail.Envelope) // who would hear of it is not known for sure
	for _, r := range e.Recipients {
		r.Held, r.Reason = true, queue.ReasonDamaged
	}
	return e
}

// A row is a recipient with its entry.
type row struct {
	id, address, agent     string
	envelope, detail       []byte
	history                []byte
	envelopeCRC, detailCRC int64
	queued, due, speak     int64
	reply                  mail.Reply
	rcpt                   queue.Recipient
}

func (w *row) scan(rows *sql.Rows) error {
	r := &w.rcpt
	return rows.Scan(&w.id, &w.queued, &w.envelope, &w.envelopeCRC, &r.Index, &w.address, &w.agent, &w.detail, &w.detailCRC, &r.Held, &r.Noticed,
		&r.Attempts, &w.due, &w.reply.Code, &w.reply.Enh, &w.reply.Text, &r.Last.RemoteMTA, &r.Reason, &r.Wish, &w.history,
		&r.Starts, &r.Bin, &w.speak)
}

// addTo adds the recipient to its entry, which is made if it is nil.
func (w *row) addTo(e **queue.Entry) {
	if *e == nil {
		env := new(mail.Envelope)
		err := unmarshal(w.envelope, w.envelopeCRC, env)
		*e = &queue.Entry{ID: w.id, Queued: time.UnixMicro(w.queued), Envelope: env, Damaged: err != nil}
	}
	r := &w.rcpt
	r.Recipient = new(mail.Recipient)
	if err := unmarshal(w.detail, w.detailCRC, r.Recipient); err != nil {
		a, _ := mail.ParseAddress(w.address) // for people to see
		r.Recipient = mail.NewRecipient(a)
		(*e).Damaged = true
	}
	r.Agent = w.agent // the column is the truth: operators can change it
	r.Entry, r.Due = w.id, time.UnixMicro(w.due)
	if w.reply.Code != 0 {
		r.Last.Reply = &w.reply
	}
	if w.speak != 0 {
		r.Speak = time.UnixMicro(w.speak)
	}
	if len(w.history) > 0 {
		if err := json.Unmarshal(w.history, &r.History); err != nil {
			r.History = nil // it is for people: no reason to stop delivery
		}
	}
	(*e).Recipients = append((*e).Recipients, r)
}

func unmarshal(text []byte, sum int64, into any) error {
	if crc(text) != sum {
		return queue.ErrDamaged
	}
	return json.Unmarshal(text, into)
}

// Get returns an entry without its content.
func (s *Store) Get(ctx context.Context, id string) (e *queue.Entry, err error) {
	rows, err := s.stmt["get"].QueryContext(ctx, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	err = s.entries(rows, func(found *queue.Entry) bool {
		e = found
		return true
	})
	if err == nil && e == nil {
		err = queue.ErrNotFound
	}
	return e, err
}

// Content returns an entry's content.
func (s *Store) Content(ctx context.Context, id string) (*message.Message, error) {
	var header, inline, sum []byte
	var file sql.NullString
	var size, headerCRC int64
	var st message.Stats
	err := s.stmt["content"].QueryRowContext(ctx, id).
		Scan(&header, &headerCRC, &size, &sum, &inline, &file, &st.EightBit, &st.NUL, &st.LongestLine)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, queue.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	h, _, err := message.ParseHeader(header)
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w: %w", id, queue.ErrDamaged, err)
	}
	if crc(header) != headerCRC {
		return nil, fmt.Errorf("entry %s: %w", id, queue.ErrDamaged)
	}
	if file.Valid {
		return message.New(h, message.OpenBody(s.path("content", file.String), size, message.Sum(sum)).WithStats(st)), nil
	}
	if int64(len(inline)) != size || !message.Sum(sum).Of(inline) {
		return nil, fmt.Errorf("entry %s: %w", id, queue.ErrDamaged)
	}
	return message.New(h, message.NewBody(inline).WithStats(st)), nil
}
