package login

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/xdg-go/stringprep"
)

// The hash functions of SCRAM that are known (RFC 5802, RFC 7677).
const (
	SHA1   = "SHA-1"
	SHA256 = "SHA-256"
)

// Iterations are what NewKeys makes keys with: RFC 7677 asks for 4096 at least,
// and clients on telephones must do them at every login.
const Iterations = 10000

const (
	maxIterations = 10_000_000
	minSalt       = 8 // octets
	maxSalt       = 256
	newSalt       = 16
	maxPassword   = 1024 // octets
)

// Keys are what a server keeps of a password for SCRAM (RFC 5802, section 5).
type Keys struct {
	Hash                       string // function: SHA1 or SHA256
	Iterations                 int
	Salt, StoredKey, ServerKey []byte
}

// NewKeys makes keys of a password with a salt of their own.
func NewKeys(function, password string, iterations int) (Keys, error) {
	salt := make([]byte, newSalt)
	if _, err := rand.Read(salt); err != nil {
		return Keys{}, err
	}
	return DeriveKeys(function, password, salt, iterations)
}

// DeriveKeys are the keys of a password with a salt (RFC 5802, section 3).
func DeriveKeys(function, password string, salt []byte, iterations int) (Keys, error) {
	h := HashFunction(function)
	switch {
	case h == nil:
		return Keys{}, fmt.Errorf("no hash function for SCRAM: '%s'", function)
	case iterations < 1 || iterations > maxIterations:
		return Keys{}, fmt.Errorf("iterations are not 1 to %d", maxIterations)
	case password == "" || len(password) > maxPassword:
		return Keys{}, fmt.Errorf("password is not 1 to %d octets", maxPassword)
	}
	salted, err := pbkdf2.Key(h, prepare(password), salt, iterations, h().Size())
	if err != nil {
		return Keys{}, err
	}
	client := mac(h, salted, "Client Key")
	stored := h()
	stored.Write(client)
	return Keys{
		Hash: function, Iterations: iterations, Salt: salt,
		StoredKey: stored.Sum(nil), ServerKey: mac(h, salted, "Server Key"),
	}, nil
}

// prepare is Normalize of RFC 5802: SASLprep. What that refuses, such as signs
// younger than its Unicode 3.2, is taken as it is, as PostgreSQL and clients
// that do not prepare do.
func prepare(password string) string {
	if p, err := stringprep.SASLprep.Prepare(password); err == nil && p != "" {
		return p
	}
	return password
}

// HashFunction returns the function of a name that Keys have, or nil.
func HashFunction(name string) func() hash.Hash {
	switch name {
	case SHA1:
		return sha1.New
	case SHA256:
		return sha256.New
	}
	return nil
}

func mac(h func() hash.Hash, key []byte, message string) []byte {
	m := hmac.New(h, key)
	m.Write([]byte(message))
	return m.Sum(nil)
}

// Match reports whether the keys are those of a password. It takes as long as
// making them.
func (k *Keys) Match(password string) bool {
	o, err := DeriveKeys(k.Hash, password, k.Salt, k.Iterations)
	return err == nil && hmac.Equal(o.StoredKey, k.StoredKey)
}

// String is the text of keys that ParseKeys reads. It is a secret.
func (k *Keys) String() string {
	b := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-%s$%d:%s$%s:%s", k.Hash, k.Iterations, b(k.Salt), b(k.StoredKey), b(k.ServerKey))
}

var errKeys = errors.New("SCRAM keys: not SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>")

// ParseKeys reads keys as RFC 5803 and PostgreSQL write them,
//
//	SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
//
// or as Dovecot does, {SCRAM-SHA-256}<iterations>,<salt>,<StoredKey>,<ServerKey>.
func ParseKeys(s string) (Keys, error) {
	var f []string
	name, rest, _ := strings.Cut(s, "$")
	name, ok := strings.CutPrefix(name, "SCRAM-")
	if ok {
		count, more, _ := strings.Cut(rest, ":")
		salt, keys, _ := strings.Cut(more, "$")
		stored, server, _ := strings.Cut(keys, ":")
		f = []string{count, salt, stored, server}
	} else if rest, ok = strings.CutPrefix(s, "{SCRAM-"); ok {
		name, rest, _ = strings.Cut(rest, "}")
		f = strings.Split(rest, ",")
	}
	h := HashFunction(name)
	if h == nil || len(f) != 4 {
		return Keys{}, errKeys
	}
	k := Keys{Hash: name}
	var err error
	if k.Iterations, err = strconv.Atoi(f[0]); err != nil || k.Iterations < 1 || k.Iterations > maxIterations {
		return Keys{}, fmt.Errorf("SCRAM keys: iterations are not 1 to %d", maxIterations)
	}
	for i, to := range []*[]byte{&k.Salt, &k.StoredKey, &k.ServerKey} {
		if *to, err = base64.StdEncoding.Strict().DecodeString(f[i+1]); err != nil {
			return Keys{}, errKeys
		}
	}
	if len(k.Salt) < minSalt || len(k.Salt) > maxSalt || len(k.StoredKey) != h().Size() || len(k.ServerKey) != h().Size() {
		return Keys{}, errors.New("SCRAM keys: length of salt or key")
	}
	return k, nil
}
