package dkimsign

import (
	"crypto"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// typical is a message of 4 KiB as a user's client sends it.
func typical() string {
	head := crlf(`Received: from client.example.test ([192.0.2.1]) by mx.example.test with ESMTPSA id 0123456789abcdef;
	Wed, 25 Nov 2026 18:30:00 +0000 (UTC)
Date: Wed, 25 Nov 2026 18:30:00 +0000
From: Alice Example <alice@football.example.com>
To: Bob Example <bob@elsewhere.test>, Carol Example <carol@elsewhere.test>
Subject: =?utf-8?q?A_subject_of_the_usual_length_with_an_=C3=BCmlaut?=
Message-ID: <a1b2c3d4-e5f6-0718-293a-4b5c6d7e8f90@football.example.com>
In-Reply-To: <CAF0123456789abcdefghijklmnopqrstuvwxyz@elsewhere.test>
References: <CAF0123456789abcdefghijklmnopqrstuvwxyz@elsewhere.test>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit
User-Agent: Mail 1.0

`)
	line := "This is one of the lines of a message, which are some 76 octets long as a rule.\r\n"
	return head + strings.Repeat(line, (4<<10-len(head))/len(line))
}

// BenchmarkSign compares a signature of a message of 4 KiB with the bare
// operation of its key. The aim is 1.2 at most; "ratio" is that of the medians
// of rounds that take turns, so that both have the same share of the machine, and
// "least-ratio" that of the fastest rounds, which others disturbed the least.
func BenchmarkSign(b *testing.B) {
	keys := map[string][]Key{"rsa2048": both(b)[:1], "ed25519": both(b)[1:], "both": both(b)}
	for _, name := range []string{"rsa2048", "ed25519", "both"} {
		b.Run(name, func(b *testing.B) {
			m := parse(b, typical())
			ks := keys[name]
			sum := sha256.Sum256(nil)
			bare := func() {
				for _, k := range ks {
					hash := crypto.SHA256
					if k.Algorithm() != "rsa-sha256" {
						hash = 0
					}
					if _, err := k.Signer.Sign(nil, sum[:], hash); err != nil {
						b.Fatal(err)
					}
				}
			}
			all := func() {
				if _, err := Signatures(m, ks, Options{}); err != nil {
					b.Fatal(err)
				}
			}
			var bares, alls []time.Duration
			for b.Loop() {
				bares, alls = append(bares, timed(bare)), append(alls, timed(all))
			}
			b.ReportMetric(float64(median(alls))/float64(median(bares)), "ratio")
			b.ReportMetric(float64(alls[0])/float64(bares[0]), "least-ratio")
			b.ReportMetric(float64(median(alls)), "median-ns")
			b.ReportMetric(float64(median(bares)), "bare-ns")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

// BenchmarkSize is what a signature costs by the size of the message.
func BenchmarkSize(b *testing.B) {
	for _, kib := range []int{4, 64, 1024, 25 << 10} {
		b.Run(fmt.Sprint(kib, "KiB"), func(b *testing.B) {
			m := parse(b, typical()+strings.Repeat("A line  of a message.\r\n", kib<<10/23))
			b.SetBytes(m.Size())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Signatures(m, both(b)[1:], Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
