package dmarc

import (
	"context"
	"errors"
	"strings"
)

// The values of a check (RFC 8601, section 2.7.7, and RFC 9989, section 9.2).
const (
	None      = "none" // no policy applies
	Pass      = "pass"
	Fail      = "fail"
	TempError = "temperror"
	PermError = "permerror"
)

// Identifiers are the domains that a message was authenticated for.
type Identifiers struct {
	SPF  []string // SPF passed for mail from them
	DKIM []string // they signed

	// UnknownSPF and UnknownDKIM are those for which DNS did not tell.
	UnknownSPF, UnknownDKIM []string
}

// An Evaluation is what became of one author's domain.
type Evaluation struct {
	Domain string
	// Value is None, Pass, Fail, TempError or PermError.
	Value string
	Err   error

	// Record is the policy record, if there is one.
	Record *Record
	// Requested is what its owner wants done with messages of this domain that
	// fail, and Policy is that after test mode and percentage.
	Requested, Policy Policy

	// SPF and DKIM report whether an identifier of theirs is aligned.
	SPF, DKIM bool
}

// Evaluate checks one author's domain. sample, from 0 to 99, decides whether the
// policy is applied to a message if it is to be only to some.
func (f *Finder) Evaluate(ctx context.Context, author string, ids Identifiers, sample int) *Evaluation {
	e := &Evaluation{Domain: author, Value: None, Requested: PolicyNone, Policy: PolicyNone}
	if e.Record, e.Err = f.Record(ctx, author); e.Err == nil && e.Record != nil {
		e.Err = f.evaluate(ctx, e, ids)
	}
	switch {
	case errors.Is(e.Err, ErrRecord):
		e.Value = PermError
	case e.SPF || e.DKIM:
		e.Value = Pass
	case e.Err != nil:
		e.Value = TempError
	case e.Record != nil:
		e.Value = Fail
		e.Policy = e.Requested
		if e.Record.Testing || sample >= e.Record.Percent {
			e.Policy = e.Policy.lower()
		}
	}
	return e
}

func (f *Finder) evaluate(ctx context.Context, e *Evaluation, ids Identifiers) (err error) {
	exists := true
	if e.Record.Domain != e.Domain && e.Record.Nonexist != "" {
		if exists, err = f.Exists(ctx, e.Domain); err != nil {
			exists = true
		}
	}
	e.Requested = e.Record.For(e.Domain, exists)
	var errSPF, errDKIM error
	e.SPF, errSPF = f.Aligned(ctx, e.Domain, ids.SPF, e.Record.StrictSPF)
	e.DKIM, errDKIM = f.Aligned(ctx, e.Domain, ids.DKIM, e.Record.StrictDKIM)
	if e.SPF || e.DKIM {
		return nil
	}
	// What may turn out to be aligned and to pass is no failure (RFC 9989,
	// section 5.3.6).
	spf, errUnknownSPF := f.Aligned(ctx, e.Domain, ids.UnknownSPF, e.Record.StrictSPF)
	dkim, errUnknownDKIM := f.Aligned(ctx, e.Domain, ids.UnknownDKIM, e.Record.StrictDKIM)
	if spf || dkim {
		err = errUnknown
	}
	return errors.Join(err, errSPF, errDKIM, errUnknownSPF, errUnknownDKIM)
}

var errUnknown = errors.New("SPF or DKIM of the author's domain is not known")

// Aligned reports whether one of the domains is aligned with the author's. The
// organisational domain is a part of a domain's own name, so only those that
// share the author's need be asked about.
func (f *Finder) Aligned(ctx context.Context, author string, domains []string, strict bool) (bool, error) {
	for _, d := range domains {
		if d == author {
			return true, nil
		}
	}
	if strict || len(domains) == 0 {
		return false, nil
	}
	org, err := f.Organisation(ctx, author)
	if err != nil {
		return false, err
	}
	for _, d := range domains {
		if d != org && !strings.HasSuffix(d, "."+org) {
			continue
		}
		other, e := f.Organisation(ctx, d)
		if e == nil && other == org {
			return true, nil
		}
		err = errors.Join(err, e)
	}
	return false, err
}

// Worse reports whether e is worse than o: of several authors, the worst counts.
func (e *Evaluation) Worse(o *Evaluation) bool {
	if a, b := e.Policy.level(), o.Policy.level(); a != b {
		return a > b
	}
	return badness(e.Value) > badness(o.Value)
}

func badness(value string) int {
	for i, v := range []string{Pass, None, PermError, TempError, Fail} {
		if v == value {
			return i
		}
	}
	return 0
}
