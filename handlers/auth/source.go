package auth

import "context"

// What a credential source may be able to do. A module of the namespace
// smtp.auth implements at least one of these; names of users come to it as
// package login has them. An error is a fault that may pass: the client is told
// to try again. A user that a source does not know is left to the next one.
type (
	// A HashSource gives the hashes of a user's passwords, any of which he may
	// log in with, in a form that login.ParseHash takes.
	HashSource interface {
		PasswordHashes(ctx context.Context, user string) (hashes []string, known bool, err error)
	}

	// A Sampler has a hash of the kind that most of its users have. Passwords
	// of unknown users are compared with one like it, so that they take as long.
	Sampler interface{ SampleHash() string }

	// A PasswordChecker checks passwords itself, against a directory for
	// instance. It should take as long for one that is wrong as for a user that
	// it does not know.
	PasswordChecker interface {
		CheckPassword(ctx context.Context, user, password string) (known, right bool, err error)
	}
)

// A verdict is what came of a password.
type verdict uint8

const (
	unknown verdict = iota // the user
	wrong
	right
)

func verdictOf(known, ok bool) verdict {
	switch {
	case !known:
		return unknown
	case ok:
		return right
	}
	return wrong
}

func servesPasswords(source any) bool {
	_, hashes := source.(HashSource)
	_, checks := source.(PasswordChecker)
	return hashes || checks
}
