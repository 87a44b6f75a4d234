package userfile

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

// MinPassword is the shortest password that a secret is made of, in characters
// (NIST SP 800-63B, section 5.1.1.2).
const MinPassword = 8

// A Form says in which forms a new secret is kept.
type Form struct {
	// Algorithm of the hash: argon2id or bcrypt.
	Algorithm string
	// NoSCRAM leaves the keys for SCRAM-SHA-256 out.
	NoSCRAM bool
	// Plain keeps the password itself too, for CRAM-MD5.
	Plain bool
}

// What Caddy makes hashes with, so that all take the same time.
const (
	argonTime    = 1
	argonMemory  = 46 * 1024 // KiB
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
	bcryptCost   = 14
	bcryptMax    = 72 // octets that it looks at
)

// NewSecret makes a secret of a password. Keys for SCRAM have the salt of those
// that the user has: a server can only show a client one, and then a client may
// log in with any of the secrets.
func (f *File) NewSecret(user, name, password string, form Form) (login.Secret, error) {
	s := login.Secret{Name: name}
	if n := len([]rune(password)); n < MinPassword {
		return s, fmt.Errorf("a password of %d characters is too short; at least %d are wanted", n, MinPassword)
	}
	var err error
	if s.Hash, err = hash(form.Algorithm, password); err != nil {
		return s, err
	}
	if !form.NoSCRAM {
		keys, err := f.keys(user, name, password)
		if err != nil {
			return s, err
		}
		s.SCRAM = []login.Keys{keys}
	}
	if form.Plain {
		s.Plain = password
	}
	if _, err := login.ParseSecret(s.Text()); err != nil {
		return s, err
	}
	return s, nil
}

func hash(algorithm, password string) (string, error) {
	switch algorithm {
	case "argon2id":
		salt := make([]byte, argonSalt)
		if _, err := rand.Read(salt); err != nil {
			return "", err
		}
		b := base64.RawStdEncoding.EncodeToString
		key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey)
		return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, b(salt), b(key)), nil
	case "bcrypt":
		if len(password) > bcryptMax {
			return "", fmt.Errorf("bcrypt takes no more than %d octets", bcryptMax)
		}
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
		return string(h), err
	}
	return "", fmt.Errorf("no algorithm '%s'; there are argon2id and bcrypt", algorithm)
}

func (f *File) keys(user, name, password string) (login.Keys, error) {
	for _, e := range f.Of(user) {
		if k := e.Secret.Keys(login.SHA256); k != nil && e.Name != name {
			return login.DeriveKeys(login.SHA256, password, k.Salt, k.Iterations)
		}
	}
	return login.NewKeys(login.SHA256, password, login.Iterations)
}

// NewPassword is one of 100 random bits that a person can type.
func NewPassword() string {
	t := strings.ToLower(rand.Text()[:20])
	return t[:5] + "-" + t[5:10] + "-" + t[10:15] + "-" + t[15:]
}
