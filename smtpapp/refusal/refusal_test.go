package refusal

import "testing"

func TestOptions(t *testing.T) {
	values := []string{"pass", "fail", "temperror"}
	o := Options{Reject: []string{"fail"}, Defer: []string{"temperror"}}
	if err := o.Check(values); err != nil || o.Class("fail") != 5 || o.Class("temperror") != 4 || o.Class("pass") != 0 {
		t.Errorf("%v", err)
	}
	for _, bad := range []Options{{Reject: []string{"fial"}}, {Defer: []string{"x"}}, {Reject: []string{"temperror"}}, {Reject: []string{"fail"}, Defer: []string{"fail"}}} {
		if bad.Check(values) == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
