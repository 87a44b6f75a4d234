package storetest

import (
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) func() queue.Store {
		m := new(Memory)
		return func() queue.Store { return m.Open() }
	})
}
