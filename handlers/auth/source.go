package auth

import (
	"context"
	"crypto/tls"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

// What a credential source may be able to do. A module of the namespace
// smtp.auth implements at least one of these; names of users come to it, and
// go from it, as login.Name has them. An error is a fault that may pass: the
// client is told to try again. A user that a source does not know is left to
// the next one.
type (
	// An AccountSource has users' secrets, any of which they may log in with.
	AccountSource interface {
		// Account returns nil for a user that it does not know.
		Account(ctx context.Context, user string) (*login.Account, error)
	}

	// A FormSource says in which forms it has the secrets of every user, so
	// that no mechanism is offered that some of them cannot use; Hashes is
	// whatever a password can be compared with. An AccountSource that does not
	// say has hashes.
	FormSource interface{ Forms() login.Forms }

	// An AnyFormSource says in which forms it has the secrets of some users, so
	// that a mechanism for these can be named. One that does not say has those
	// that it has of every user.
	AnyFormSource interface{ AnyForms() login.Forms }

	// A Sampler has a secret of the kind that most of its users have, for
	// login.ParseSecret, "" if it has no users. Passwords of unknown users are
	// compared with one like it, so that they take as long, and SCRAM shows
	// them as many iterations.
	Sampler interface{ SampleHash() string }

	// A PasswordChecker checks passwords itself, against a directory for
	// instance. It should take as long for one that is wrong as for a user that
	// it does not know.
	PasswordChecker interface {
		// CheckPassword returns nil for a password that is wrong.
		CheckPassword(ctx context.Context, user, password string) (id *login.Identity, known bool, err error)
	}

	// A TokenChecker checks bearer tokens (RFC 6750).
	TokenChecker interface {
		// CheckToken returns nil for a token that is not valid here, or not for
		// the user that the client claims to be, "" for none.
		CheckToken(ctx context.Context, user, token string) (*login.Identity, error)
	}

	// A Discoverer says where and for what clients get their tokens (RFC 7628,
	// section 3.2.2), "" for what it does not know.
	Discoverer interface {
		Discovery() (openIDConfiguration, scope string)
	}

	// A CertificateChecker tells the user from a certificate that TLS has
	// verified.
	CertificateChecker interface {
		// CheckCertificate returns nil if there is no such user.
		CheckCertificate(ctx context.Context, state *tls.ConnectionState) (*login.Identity, error)
	}

	// A Recorder hears of logins that succeeded with an account of its own. It
	// must not block.
	Recorder interface{ LoggedIn(id *login.Identity) }
)

func servesPasswords(source any) bool {
	return is[PasswordChecker](source) || anyForms(source)&login.Hashes != 0
}

// anyForms are those in which a source has some users' secrets.
func anyForms(source any) login.Forms {
	if f, ok := source.(AnyFormSource); ok {
		return f.AnyForms() | forms(source)
	}
	return forms(source)
}

// forms are those in which a source has every user's secrets.
func forms(source any) login.Forms {
	if _, ok := source.(AccountSource); !ok {
		return 0
	}
	if f, ok := source.(FormSource); ok {
		return f.Forms()
	}
	return login.Hashes
}
