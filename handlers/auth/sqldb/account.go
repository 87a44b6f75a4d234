package sqldb

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const (
	maxRows    = 1000 // of one user
	maxSecrets = 100
)

// A row is one of the result, by the meaning of its columns.
type row struct {
	user, secret, name string
	addresses          []string
	attributes         map[string]string
}

// account puts the rows of one user together; nil if there are none.
func (s *Source) account(asked string, rows *sql.Rows) (*login.Account, error) {
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	a := &login.Account{Attributes: map[string]string{}}
	var addresses []string
	user := ""
	n := 0
	for ; rows.Next(); n++ {
		if n == maxRows {
			return nil, fmt.Errorf("more than %d rows for user '%s'", maxRows, asked)
		}
		r, err := scan(rows, columns)
		if err != nil {
			return nil, err
		}
		if n > 0 && r.user != user {
			return nil, fmt.Errorf("rows of more than one user for '%s'", asked)
		}
		user = r.user
		addresses = append(addresses, r.addresses...)
		for k, v := range r.attributes {
			a.Attributes[k] = v
		}
		if err := s.secret(a, asked, r); err != nil {
			return nil, err
		}
	}
	if err := rows.Err(); err != nil || n == 0 {
		return nil, err
	}
	id, err := login.NewIdentity(asked, user, addresses, a.Attributes)
	if err != nil {
		return nil, err
	}
	a.User, a.Addresses = id.User, id.Addresses
	return a, nil
}

// secret adds that of a row, if it has one that can be read and that is not
// there already, as it is where rows are a join.
func (s *Source) secret(a *login.Account, asked string, r row) error {
	if r.secret == "" {
		return nil
	}
	secret, err := login.ParseSecret(r.secret)
	if err != nil {
		s.log.Warn("a user's secret cannot be read", "user", asked, "secret", r.name, "error", err)
		return nil
	}
	secret.Name = r.name
	text := secret.Text()
	if slices.ContainsFunc(a.Secrets, func(o login.Secret) bool { return o.Name == r.name && o.Text() == text }) {
		return nil
	}
	if len(a.Secrets) == maxSecrets {
		return fmt.Errorf("more than %d secrets of user '%s'", maxSecrets, asked)
	}
	s.see(&secret)
	a.Secrets = append(a.Secrets, secret)
	return nil
}

func scan(rows *sql.Rows, columns []string) (row, error) {
	values := make([]any, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	if err := rows.Scan(into...); err != nil {
		return row{}, err
	}
	r := row{attributes: map[string]string{}}
	for i, v := range values {
		text, err := textOf(v)
		if err != nil {
			return row{}, fmt.Errorf("column '%s': %w", columns[i], err)
		}
		switch name := strings.ToLower(columns[i]); name {
		case "user", "username":
			r.user = text
		case "secret", "hash", "password":
			r.secret = text
		case "secret_name":
			r.name = text
		case "address", "addresses":
			r.addresses = append(r.addresses, strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(" \t\r\n,{}\"", c) })...)
		default:
			if v != nil {
				r.attributes[name] = text
			}
		}
	}
	return r, nil
}

// textOf is the text of what a driver has for a column; "" for NULL.
func textOf(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case time.Time:
		return v.UTC().Format(time.RFC3339), nil
	case bool, int64, float64:
		return fmt.Sprint(v), nil
	}
	return "", errors.New("its type is none that has a text")
}
