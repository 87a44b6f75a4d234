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

const columns = `e.id, e.queued, e.envelope, e.noticed,
	r.idx, r.agent, r.detail, r.held, r.attempts, r.due, r.code, r.enh, r.reply, r.remote`

// Each calls f for all entries, in the order of their ids.
func (s *Store) Each(ctx context.Context, f func(*queue.Entry) bool) error {
	rows, err := s.read.QueryContext(ctx, "select "+columns+" from entry e join recipient r on r.entry = e.id order by e.id, r.idx")
	if err != nil {
		return err
	}
	defer rows.Close()
	var e *queue.Entry
	for rows.Next() {
		id, r, next, err := scan(rows)
		if err != nil {
			return err
		}
		if e != nil && e.ID != id && !f(e) {
			return nil
		}
		if e == nil || e.ID != id {
			e = next
		}
		e.Recipients = append(e.Recipients, r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if e != nil {
		f(e)
	}
	return nil
}

// scan reads a row: a recipient, and the entry it is of without recipients.
func scan(rows *sql.Rows) (id string, r *queue.Recipient, e *queue.Entry, err error) {
	var queued, due int64
	var envelope, detail string
	e = &queue.Entry{Envelope: new(mail.Envelope)}
	r = &queue.Recipient{Recipient: new(mail.Recipient)}
	var reply mail.Reply
	if err := rows.Scan(&e.ID, &queued, &envelope, &e.Noticed, &r.Index, &r.Agent, &detail,
		&r.Held, &r.Attempts, &due, &reply.Code, &reply.Enh, &reply.Text, &r.Last.RemoteMTA); err != nil {
		return "", nil, nil, err
	}
	agent := r.Agent // the column is the truth: operators can change it
	if err := json.Unmarshal([]byte(envelope), e.Envelope); err != nil {
		return "", nil, nil, fmt.Errorf("entry %s: %w", e.ID, err)
	}
	if err := json.Unmarshal([]byte(detail), r.Recipient); err != nil {
		return "", nil, nil, fmt.Errorf("entry %s: %w", e.ID, err)
	}
	r.Agent = agent
	r.Entry, r.Due, e.Queued = e.ID, time.UnixMicro(due), time.UnixMicro(queued)
	if reply.Code != 0 {
		r.Last.Reply = &reply
	}
	return e.ID, r, e, nil
}

// Get returns an entry with its content.
func (s *Store) Get(ctx context.Context, id string) (*queue.Entry, error) {
	rows, err := s.read.QueryContext(ctx, "select "+columns+" from entry e join recipient r on r.entry = e.id where e.id = ? order by r.idx", id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var e *queue.Entry
	for rows.Next() {
		_, r, next, err := scan(rows)
		if err != nil {
			return nil, err
		}
		if e == nil {
			e = next
		}
		e.Recipients = append(e.Recipients, r)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if e == nil {
		return nil, queue.ErrNotFound
	}
	e.Content, err = s.content(ctx, id)
	return e, err
}

func (s *Store) content(ctx context.Context, id string) (*message.Message, error) {
	var header, inline, sum []byte
	var file sql.NullString
	var size int64
	var st message.Stats
	err := s.read.QueryRowContext(ctx, `select e.header, c.size, c.sha256, c.inline, c.file, c.eight_bit, c.nul, c.longest
		from entry e join content c on c.id = e.content where e.id = ?`, id).
		Scan(&header, &size, &sum, &inline, &file, &st.EightBit, &st.NUL, &st.LongestLine)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, queue.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	h, _, err := message.ParseHeader(header)
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w", id, err)
	}
	if file.Valid {
		return message.New(h, message.OpenBody(s.path("content", file.String), size, [sha256.Size]byte(sum)).WithStats(st)), nil
	}
	if int64(len(inline)) != size || sha256.Sum256(inline) != [sha256.Size]byte(sum) {
		return nil, fmt.Errorf("entry %s: %w", id, message.ErrCorrupt)
	}
	return message.New(h, message.NewBody(inline).WithStats(st)), nil
}
