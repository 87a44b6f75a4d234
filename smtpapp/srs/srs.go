// Package srs is the Sender Rewriting Scheme: who forwards mail puts an address
// of his own in the place of its reverse-path, from which a DSN can be led back.
// Addresses are those of Mail::SRS, by which other forwarders know them: SRS0
// with the sender in it, and SRS1 for what a forwarder before us has made.
package srs

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what all implementations have
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Why an address is not led back.
var (
	ErrNotSRS  = errors.New("not an SRS address")
	ErrForged  = errors.New("SRS address is not of ours")
	ErrExpired = errors.New("SRS address is too old")
)

// hashLength is how many characters of a hash are in an address: 36 bits.
const hashLength = 6

// minHash are those that are looked at, of an address of an implementation before
// ours with the same secret.
const minHash = 4

// day is the unit of time stamps, of which there are 1024.
const (
	day     = 24 * time.Hour
	periods = 1 << 10
)

// What is meant where nothing else is said. MaxValidity leaves room to tell an old
// time stamp from one that is ahead.
const (
	DefaultValidity = 21 * day
	DefaultRotate   = 30 * day
	MaxValidity     = 500 * day
)

const base32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

// Forward returns the reverse-path of domain for mail from an address. What is an
// SRS address of the domain already stays as it is.
func Forward(from mail.Address, domain string, secret []byte, now time.Time) (mail.Address, error) {
	if from.IsNull() || from.Domain == domain && Is(from.Local) {
		return from, nil
	}
	to := mail.Address{Domain: domain}
	switch kind(from.Local) {
	case '0':
		rest := from.Local[4:]
		to.Local = join("SRS1", hash(secret, from.Domain, rest), from.Domain, rest)
	case '1':
		_, host, rest, ok := split1(from.Local)
		if !ok {
			return forward0(from, domain, secret, now)
		}
		to.Local = join("SRS1", hash(secret, host, rest), host, rest)
	default:
		return forward0(from, domain, secret, now)
	}
	return to, check(to)
}

func forward0(from mail.Address, domain string, secret []byte, now time.Time) (mail.Address, error) {
	t := stamp(now)
	to := mail.Address{Domain: domain, Local: join("SRS0", hash(secret, t, from.Domain, from.Local), t, from.Domain, from.Local)}
	return to, check(to)
}

// check finds out whether others can parse an address.
func check(a mail.Address) error {
	_, err := mail.ParseAddress(a.String())
	return err
}

// Reverse returns the address that a local part of ours was made of, if a secret
// was that and it is not older than validity.
func Reverse(local string, secrets [][]byte, now time.Time, validity time.Duration) (mail.Address, error) {
	var to mail.Address
	switch kind(local) {
	case '0':
		parts := strings.SplitN(local[5:], "=", 4)
		if len(parts) != 4 {
			return to, ErrNotSRS
		}
		if !known(secrets, parts[0], parts[1:]...) {
			return to, ErrForged
		}
		if !fresh(parts[1], now, validity) {
			return to, ErrExpired
		}
		to = mail.Address{Local: parts[3], Domain: strings.ToLower(parts[2])}
	case '1':
		h, host, rest, ok := split1(local)
		if !ok {
			return to, ErrNotSRS
		}
		if !known(secrets, h, host, rest) {
			return to, ErrForged
		}
		to = mail.Address{Local: "SRS0" + rest, Domain: strings.ToLower(host)}
	default:
		return to, ErrNotSRS
	}
	return mail.ParseAddress(to.String())
}

// Is reports whether a local part looks like one of SRS.
func Is(local string) bool { return kind(local) != 0 }

// kind is '0' or '1', or zero for another local part.
func kind(local string) byte {
	if len(local) < 5 || !strings.EqualFold(local[:3], "SRS") || !strings.ContainsRune("=+-", rune(local[4])) || local[3] != '0' && local[3] != '1' {
		return 0
	}
	return local[3]
}

// split1 parts an SRS1 address into its hash, the forwarder, and what follows SRS0
// in the address that he has made.
func split1(local string) (hash, host, rest string, ok bool) {
	parts := strings.SplitN(local[5:], "=", 3)
	if len(parts) != 3 || parts[1] == "" || len(parts[2]) < 2 || !strings.ContainsRune("=+-", rune(parts[2][0])) {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

func join(parts ...string) string { return strings.Join(parts, "=") }

// hash is the beginning of an HMAC, which knows no case: relays change it.
func hash(secret []byte, words ...string) string { return digest(secret, words)[:hashLength] }

func digest(secret []byte, words []string) string {
	h := hmac.New(sha1.New, secret)
	for _, w := range words {
		h.Write([]byte(strings.ToLower(w)))
	}
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// known reports whether a hash was made by one of the secrets.
func known(secrets [][]byte, given string, words ...string) bool {
	found := false
	for _, s := range secrets {
		d := digest(s, words)
		if len(given) < minHash || len(given) > len(d) {
			continue
		}
		want := strings.ToLower(d[:len(given)])
		found = hmac.Equal([]byte(want), []byte(strings.ToLower(given))) || found
	}
	return found
}

// stamp is the day in two characters.
func stamp(now time.Time) string {
	n := now.Unix() / int64(day/time.Second) % periods
	return string([]byte{base32[n>>5], base32[n&31]})
}

// fresh reports whether a time stamp is not older than validity, nor of a day
// that is yet to come, but for a clock that is ahead.
func fresh(text string, now time.Time, validity time.Duration) bool {
	if len(text) != 2 {
		return false
	}
	text = strings.ToUpper(text)
	hi, lo := strings.IndexByte(base32, text[0]), strings.IndexByte(base32, text[1])
	if hi < 0 || lo < 0 {
		return false
	}
	today := now.Unix() / int64(day/time.Second) % periods
	age := (today - int64(hi<<5|lo) + periods) % periods
	return age <= int64(validity/day) || age == periods-1
}
