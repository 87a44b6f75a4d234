package message

import (
	"crypto/sha256"
	"hash"

	"github.com/cespare/xxhash/v2"
)

// A Sum tells whether stored octets are those that were stored. It finds what
// disks and memory do to them, not what somebody does on purpose who can write
// both. It is an XXH64, in 8 octets; one of 32 is a SHA-256, as queues had at first.
type Sum string

// SumOf returns the sum of octets.
func SumOf(data []byte) Sum {
	d := newDigest()
	d.Write(data)
	return d.sum()
}

// Of reports whether data has this sum.
func (s Sum) Of(data []byte) bool {
	d := s.digest()
	d.Write(data)
	return d.sum() == s
}

// digest makes a sum of the same kind.
func (s Sum) digest() digest {
	if len(s) == sha256.Size {
		return digest{sha256.New()}
	}
	return newDigest()
}

// A digest is a sum on its way.
type digest struct{ hash.Hash }

func newDigest() digest { return digest{xxhash.New()} }

func (d digest) sum() Sum { return Sum(d.Sum(nil)) }
