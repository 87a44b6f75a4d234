package login

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A Hash is what a password is compared with: a password hash in modular crypt
// format, keys for SCRAM, or the password itself.
type Hash struct {
	// Algorithm is the name of Caddy's module in http.authentication.hashes,
	// or SCRAM, or PLAIN.
	Algorithm string
	// Params are what its cost depends on, as a prefix of the hash.
	Params string
	// Fake is a hash of the same cost that no password has.
	Fake string
}

const (
	bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	maxArgonMemory = 4 << 20 // KiB
	maxArgonTime   = 1 << 10
	minArgonSalt   = 8  // octets; RFC 9106, section 3.1
	minArgonKey    = 16 // a key of none would be equal to any
)

var argonParams = regexp.MustCompile(`^m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,3})$`)

// The algorithms that Caddy has no module for.
const (
	AlgorithmSCRAM = "SCRAM"
	AlgorithmPlain = "PLAIN"
)

// ParseHash checks what a password is compared with, as Secret.Verifier has it,
// so that comparing cannot fail.
func ParseHash(s string) (Hash, error) {
	if strings.HasPrefix(s, "SCRAM-") {
		return parseKeysHash(s)
	}
	if strings.HasPrefix(s, plainMark) {
		return Hash{Algorithm: AlgorithmPlain, Params: plainMark, Fake: plainMark}, nil
	}
	switch parts := cut(s); {
	case len(parts) == 3 && (parts[0] == "2a" || parts[0] == "2b" || parts[0] == "2y"):
		return parseBcrypt(parts)
	case len(parts) == 5 && parts[0] == "argon2id":
		return parseArgon(parts)
	}
	return Hash{}, errHash
}

func parseBcrypt(p []string) (Hash, error) {
	cost, err := strconv.Atoi(p[1])
	if err != nil || len(p[1]) != 2 || cost < 4 || cost > 20 {
		return Hash{}, fmt.Errorf("bcrypt hash: cost is not 4 to 20")
	}
	if len(p[2]) != 53 || strings.Trim(p[2], bcryptAlphabet) != "" {
		return Hash{}, fmt.Errorf("bcrypt hash: incomplete")
	}
	params := "$" + p[0] + "$" + p[1] + "$"
	return Hash{Algorithm: "bcrypt", Params: params, Fake: params + p[2][:22] + strings.Repeat(".", 31)}, nil
}

func parseArgon(p []string) (Hash, error) {
	m := argonParams.FindStringSubmatch(p[2])
	if p[1] != "v=19" || m == nil {
		return Hash{}, fmt.Errorf("argon2id hash: parameters")
	}
	mem, _ := strconv.Atoi(m[1])
	passes, _ := strconv.Atoi(m[2])
	threads, _ := strconv.Atoi(m[3])
	if threads < 1 || threads > 255 || passes < 1 || passes > maxArgonTime || mem < 8*threads || mem > maxArgonMemory {
		return Hash{}, fmt.Errorf("argon2id hash: parameters out of range")
	}
	salt, err := base64.RawStdEncoding.Strict().DecodeString(p[3])
	key, err2 := base64.RawStdEncoding.Strict().DecodeString(p[4])
	if err != nil || err2 != nil || len(salt) < minArgonSalt || len(key) < minArgonKey || len(key) > 64 {
		return Hash{}, fmt.Errorf("argon2id hash: salt or key")
	}
	params := "$" + strings.Join(p[:3], "$") + "$"
	fake := params + p[3] + "$" + base64.RawStdEncoding.EncodeToString(make([]byte, len(key)))
	return Hash{Algorithm: "argon2id", Params: params, Fake: fake}, nil
}

func parseKeysHash(s string) (Hash, error) {
	k, err := ParseKeys(s)
	if err != nil {
		return Hash{}, err
	}
	params, _, _ := strings.Cut(s, ":")
	k.StoredKey, k.ServerKey = make([]byte, len(k.StoredKey)), make([]byte, len(k.ServerKey))
	return Hash{Algorithm: AlgorithmSCRAM, Params: params, Fake: k.String()}, nil
}

// MatchPlain reports whether a verifier of the algorithm PLAIN is a password.
func MatchPlain(verifier, password string) bool {
	want := sha256.Sum256([]byte(strings.TrimPrefix(verifier, plainMark)))
	got := sha256.Sum256([]byte(password))
	return password != "" && subtle.ConstantTimeCompare(want[:], got[:]) == 1
}
