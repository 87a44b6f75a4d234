package env

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestContext(t *testing.T) {
	e := &Env{Hostname: "mx.example"}
	if FromContext(NewContext(context.Background(), e)) != e {
		t.Error("the context has another")
	}
	if e := FromContext(context.Background()); e.Hostname != "localhost" || e.Resolver == nil {
		t.Errorf("outside of a configuration: %+v", e)
	}
}

type banner struct{ name string }

func (b banner) Ban() string { return b.name }

func TestOffer(t *testing.T) {
	e := new(Env)
	e.Offer(banner{"a"})
	e.Offer("something else")
	e.Offer(banner{"b"})
	got := All[interface{ Ban() string }](e)
	if len(got) != 2 || got[0].Ban() != "a" || got[1].Ban() != "b" {
		t.Errorf("got %v", got)
	}
}

func TestRegister(t *testing.T) {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "c"})
	e := &Env{Metrics: prometheus.NewRegistry()}
	for range 2 { // of two modules of a kind
		if err := e.Register(c); err != nil {
			t.Error(err)
		}
	}
	other := prometheus.NewGauge(prometheus.GaugeOpts{Name: "c", Help: "another"})
	if e.Register(other) == nil {
		t.Error("two collectors have one name")
	}
	if err := new(Env).Register(c); err != nil {
		t.Error(err)
	}
}

func TestEmit(t *testing.T) {
	new(Env).Emit("nowhere", nil)
	var got string
	e := &Env{Events: func(name string, data map[string]any) { got = name + data["user"].(string) }}
	e.Emit("smtp_banned", map[string]any{"user": "alice"})
	if got != "smtp_bannedalice" {
		t.Error(got)
	}
}
