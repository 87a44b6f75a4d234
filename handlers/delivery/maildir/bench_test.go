package maildir

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkDeliver is many deliveries at once, into one mailbox and into many.
func BenchmarkDeliver(b *testing.B) {
	for _, boxes := range []int{1, 100} {
		for _, at := range []int{5, 20, 50} {
			b.Run(fmt.Sprintf("boxes=%d/at=%d", boxes, at), func(b *testing.B) {
				a, _ := agent(b, perUser)
				var n atomic.Int64
				b.SetParallelism(at / 2)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						i := n.Add(1)
						d := delivery(b, fmt.Sprint("q", i), fmt.Sprintf("u%d@b.test", i%int64(boxes)))
						a.Deliver(b.Context(), d)
					}
				})
			})
		}
	}
}
