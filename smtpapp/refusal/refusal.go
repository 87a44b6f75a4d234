// Package refusal is what handlers that check something have in common: the
// options by which a result refuses.
package refusal

import (
	"fmt"
	"slices"
	"strings"
)

// Options say which results refuse. Without any, a check only notes its result.
type Options struct {
	// Reject are the results that refuse for good. Default: none.
	Reject []string `json:"reject,omitempty"`

	// Defer are the results that refuse for now. Default: none.
	Defer []string `json:"defer,omitempty"`
}

// Check holds the options to the results that there are. What may be another
// result in a minute cannot refuse for good.
func (o Options) Check(values []string) error {
	for _, v := range slices.Concat(o.Reject, o.Defer) {
		if !slices.Contains(values, v) {
			return fmt.Errorf("'%s' is not a result; there are %s", v, strings.Join(values, ", "))
		}
	}
	for _, v := range o.Reject {
		if v == "temperror" {
			return fmt.Errorf("temperror passes: defer it, do not reject it")
		}
		if slices.Contains(o.Defer, v) {
			return fmt.Errorf("'%s' is both rejected and deferred", v)
		}
	}
	return nil
}

// Class is the class of the reply to a result: 5, 4, or 0 for none.
func (o Options) Class(value string) int {
	switch {
	case slices.Contains(o.Reject, value):
		return 5
	case slices.Contains(o.Defer, value):
		return 4
	}
	return 0
}
