package arc

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// ErrEnded says that a chain takes no further set: it failed at somebody else's,
// who has sealed that, or it has 50.
var ErrEnded = errors.New("the chain has ended")

// signed are the fields that our message signature covers: those of a DKIM
// signature and the DKIM signatures there are (RFC 8617, section 4.1.2).
var signed = dkimsign.DefaultFields.Also("DKIM-Signature")

// Seal adds a set to the message (RFC 8617, section 5.1). prior is what the
// chain was when the message came, and results is what was found then: the
// value of an Authentication-Results field. If Seal fails, the message is as it
// was.
func Seal(m *message.Message, prior *Result, key dkimsign.Key, results string, now time.Time) error {
	n := highest(m.Header) + 1
	if n > MaxSets || errors.Is(prior.Err, errFailedBefore) {
		return ErrEnded
	}
	sealed := &message.Message{Header: m.Header.Clone()}
	i := "i=" + strconv.Itoa(n)
	sealed.Header.Prepend(fieldResults, i+"; "+results)
	aar := topmost(sealed.Header)

	ams, err := dkimsign.Signatures(m, []dkimsign.Key{key}, dkimsign.Options{Name: fieldSignature, First: i, Fields: signed, Time: now})
	if err != nil {
		return err
	}
	cv := prior.Value
	var before []byte
	if cv == Pass {
		before = chain(prior.Sets)
	}
	before = dkim.Relaxed.AppendField(before, aar)
	before = dkim.Relaxed.AppendField(before, ams[0])
	seal := fmt.Sprintf("%s: %s; a=%s; t=%d; cv=%s;\r\n\td=%s; s=%s;\r\n\tb=",
		fieldSeal, i, key.Algorithm(), now.Unix(), cv, key.Domain, key.Selector)
	as, err := key.Complete(dkim.Relaxed.AppendField(before, seal), []byte(seal))
	if err != nil {
		return err
	}
	for _, f := range []string{ams[0], as} {
		if err := sealed.Header.PrependRaw(f); err != nil {
			return err
		}
	}
	*m.Header = *sealed.Header
	return nil
}

// chain returns what a further seal is over of the sets before it. A seal on a
// chain that failed is over its own set alone (RFC 8617, section 5.1.2).
func chain(sets []*Set) []byte {
	var b []byte
	for _, s := range sets {
		for _, f := range []string{s.results, s.signature, s.seal} {
			b = dkim.Relaxed.AppendField(b, f)
		}
	}
	return b
}

// highest returns the highest instance that any field has.
func highest(h *message.Header) int {
	n := 0
	for f := range h.Fields() {
		if name, ok := fieldName(f); ok {
			i, err := instance(f, name)
			if errors.Is(err, errMany) {
				return MaxSets
			}
			n = max(n, i)
		}
	}
	return n
}

func topmost(h *message.Header) string {
	for f := range h.Fields() {
		return f.Raw()
	}
	return ""
}
