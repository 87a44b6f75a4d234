package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// bins steps from one bin to the next by the index, whatever is in them. That
// bin is not 0 has to be said for the index to be used.
const bins = `
with recursive b(id) as (
	select min(bin) from recipient where bin <> 0 and bin > ?1
	union all
	select (select min(bin) from recipient where bin <> 0 and bin > b.id) from b where b.id is not null limit 1000
)
select id,
	(select min(due) from recipient where bin <> 0 and bin = b.id),
	(select max(due) from recipient where bin <> 0 and bin = b.id),
	(select min(speak) from recipient where bin <> 0 and bin = b.id)
from b where id is not null`

// Bins returns the bins behind after.
func (s *Store) Bins(ctx context.Context, after int64) (bs []queue.Bin, err error) {
	rows, err := s.read.QueryContext(ctx, bins, after)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var b queue.Bin
		var due, last, speak int64
		if err := rows.Scan(&b.ID, &due, &last, &speak); err != nil {
			return nil, err
		}
		b.Due, b.Last, b.Speak = time.UnixMicro(due), time.UnixMicro(last), time.UnixMicro(speak)
		bs = append(bs, b)
	}
	return bs, rows.Err()
}

// Waiting returns what waits in a bin.
func (s *Store) Waiting(ctx context.Context, w queue.Wait) (es []*queue.Entry, next time.Time, err error) {
	if w.Bin == 0 {
		return s.loose(ctx, w)
	}
	order, of := s.stmt["due"], s.stmt["of_due"]
	if w.Speak {
		order, of = s.stmt["speak"], s.stmt["of_speak"]
	}
	from := int64(math.MinInt64)
	if !w.From.IsZero() {
		from = w.From.UnixMicro()
	}
	ids, next, err := first(ctx, order, w, from)
	if err != nil || len(ids) == 0 {
		return nil, next, err
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, next, err
	}
	rows, err := of.QueryContext(ctx, string(list), w.Bin, from, w.Until.UnixMicro())
	if err != nil {
		return nil, next, err
	}
	defer rows.Close()
	err = s.entries(rows, func(e *queue.Entry) bool {
		es = append(es, e)
		return true
	})
	return es, next, err
}

// first returns the entries of the first recipients that w chooses, in the
// order of their times, and the time of the first that is left out. That one
// may be of an entry that is not.
func first(ctx context.Context, order *sql.Stmt, w queue.Wait, from int64) (ids []string, next time.Time, err error) {
	rows, err := order.QueryContext(ctx, w.Bin, from, w.Limit+1)
	if err != nil {
		return nil, next, err
	}
	defer rows.Close()
	seen := map[string]bool{}
	for n := 0; rows.Next(); n++ {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, next, err
		}
		if n == w.Limit || at > w.Until.UnixMicro() {
			return ids, time.UnixMicro(at), rows.Err()
		}
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, next, rows.Err()
}

// loose returns what is in no bin.
func (s *Store) loose(ctx context.Context, w queue.Wait) (es []*queue.Entry, next time.Time, err error) {
	where, arg := "r.entry > ?", w.After
	if w.IDs != nil {
		list, err := json.Marshal(w.IDs)
		if err != nil {
			return nil, next, err
		}
		where, arg = "r.entry in (select value from json_each(?))", string(list)
	}
	rows, err := s.read.QueryContext(ctx, "select "+columns+" where r.bin = 0 and r.held = 0 and "+where+" order by r.entry, r.idx", arg)
	if err != nil {
		return nil, next, err
	}
	defer rows.Close()
	n := 0
	err = s.entries(rows, func(e *queue.Entry) bool {
		es, n = append(es, e), n+len(e.Recipients)
		return n < w.Limit
	})
	return es, next, err
}
