package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

const columns = `e.id, e.queued, e.envelope, e.envelope_crc, r.idx, r.agent, r.detail, r.detail_crc, r.held, r.noticed,
	r.attempts, r.due, r.code, r.enh, r.reply, r.remote
	from entry e join recipient r on r.entry = e.id`

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
	damaged := ""
	for rows.Next() {
		var w row
		if err := w.scan(rows); err != nil {
			return err
		}
		if w.id == damaged {
			continue
		}
		if e != nil && e.ID != w.id {
			if !f(e) {
				return nil
			}
			e = nil
		}
		if err := w.addTo(&e); err != nil {
			s.opts.Log.Error("an entry of the queue cannot be read and is left alone", "id", w.id, "error", err)
			e, damaged = nil, w.id
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if e != nil {
		f(e)
	}
	return nil
}

// A row is a recipient with its entry.
type row struct {
	id, agent              string
	envelope, detail       []byte
	envelopeCRC, detailCRC int64
	queued, due            int64
	reply                  mail.Reply
	rcpt                   queue.Recipient
}

func (w *row) scan(rows *sql.Rows) error {
	r := &w.rcpt
	return rows.Scan(&w.id, &w.queued, &w.envelope, &w.envelopeCRC, &r.Index, &w.agent, &w.detail, &w.detailCRC, &r.Held, &r.Noticed,
		&r.Attempts, &w.due, &w.reply.Code, &w.reply.Enh, &w.reply.Text, &r.Last.RemoteMTA)
}

// addTo adds the recipient to its entry, which is made if it is nil.
func (w *row) addTo(e **queue.Entry) error {
	if *e == nil {
		env := new(mail.Envelope)
		if err := unmarshal(w.envelope, w.envelopeCRC, env); err != nil {
			return fmt.Errorf("envelope: %w", err)
		}
		*e = &queue.Entry{ID: w.id, Queued: time.UnixMicro(w.queued), Envelope: env}
	}
	r := &w.rcpt
	r.Recipient = new(mail.Recipient)
	if err := unmarshal(w.detail, w.detailCRC, r.Recipient); err != nil {
		return fmt.Errorf("recipient %d: %w", r.Index, err)
	}
	r.Agent = w.agent // the column is the truth: operators can change it
	r.Entry, r.Due = w.id, time.UnixMicro(w.due)
	if w.reply.Code != 0 {
		r.Last.Reply = &w.reply
	}
	(*e).Recipients = append((*e).Recipients, r)
	return nil
}

func unmarshal(text []byte, sum int64, into any) error {
	if crc(text) != sum {
		return queue.ErrDamaged
	}
	return json.Unmarshal(text, into)
}

// Get returns an entry without its content.
func (s *Store) Get(ctx context.Context, id string) (e *queue.Entry, err error) {
	rows, err := s.read.QueryContext(ctx, "select "+columns+" where e.id = ? order by r.idx", id)
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
	err := s.read.QueryRowContext(ctx, `select e.header, e.header_crc, c.size, c.sha256, c.inline, c.file, c.eight_bit, c.nul, c.longest
		from entry e join content c on c.id = e.content where e.id = ?`, id).
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
	if len(sum) != sha256.Size || crc(header) != headerCRC {
		return nil, fmt.Errorf("entry %s: %w", id, queue.ErrDamaged)
	}
	if file.Valid {
		return message.New(h, message.OpenBody(s.path("content", file.String), size, [sha256.Size]byte(sum)).WithStats(st)), nil
	}
	if int64(len(inline)) != size || sha256.Sum256(inline) != [sha256.Size]byte(sum) {
		return nil, fmt.Errorf("entry %s: %w", id, queue.ErrDamaged)
	}
	return message.New(h, message.NewBody(inline).WithStats(st)), nil
}
