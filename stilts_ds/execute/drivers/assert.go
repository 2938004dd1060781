// Package assert has what HumanEval-X's tests use of github.com/stretchr/testify/assert, which is not there without a
// network: New and Equal. Values are equal by type and content; functions are equal to nothing.
package assert

import "reflect"

// TestingT is what a test is told by.
type TestingT interface {
	Errorf(format string, arguments ...interface{})
}

// Assertions compare for one test.
type Assertions struct {
	t TestingT
}

// New returns the assertions of a test.
func New(t TestingT) *Assertions {
	return &Assertions{t}
}

// Equal fails the test, which goes on, where the two differ.
func (a *Assertions) Equal(expected, actual interface{}, message ...interface{}) bool {
	return Equal(a.t, expected, actual, message...)
}

// Equal fails the test, which goes on, where the two differ.
func Equal(t TestingT, expected, actual interface{}, message ...interface{}) bool {
	if isFunction(expected) || isFunction(actual) || !reflect.DeepEqual(expected, actual) {
		t.Errorf("%#v is expected, not %#v", expected, actual)
		return false
	}
	return true
}

func isFunction(value interface{}) bool {
	return value != nil && reflect.TypeOf(value).Kind() == reflect.Func
}
