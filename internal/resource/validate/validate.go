// Package validate collects what is wrong with an object, in the words of Kubernetes' field errors.
//
// It watches and writes nothing. Always: a List keeps errors in the order they were found.
package validate

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Words that several kinds use.
const (
	Immutable   = apivalidation.FieldImmutableErrorMsg
	NotInteger  = "must be an integer"
	NotPositive = "must be greater than zero"
)

// List is what has been found so far. The zero value is ready.
type List struct{ Errs field.ErrorList }

// Add takes errors found elsewhere; nil ones are skipped.
func (l *List) Add(errs ...*field.Error) {
	for _, err := range errs {
		if err != nil {
			l.Errs = append(l.Errs, err)
		}
	}
}

// Required says that a value is missing.
func (l *List) Required(at *field.Path, detail string) { l.Add(field.Required(at, detail)) }

// Invalid says that a value is malformed.
func (l *List) Invalid(at *field.Path, value any, detail string) {
	l.Add(field.Invalid(at, value, detail))
}

// Forbidden says that a value may not be there.
func (l *List) Forbidden(at *field.Path, detail string) { l.Add(field.Forbidden(at, detail)) }

// Messages makes an error of each message of one of apimachinery's checks.
func (l *List) Messages(at *field.Path, value any, messages []string) {
	for _, m := range messages {
		l.Invalid(at, value, m)
	}
}

// Label demands a DNS label.
func (l *List) Label(at *field.Path, value string) {
	l.Messages(at, value, validation.IsDNS1123Label(value))
}

// Subdomain demands a DNS subdomain.
func (l *List) Subdomain(at *field.Path, value string) {
	l.Messages(at, value, validation.IsDNS1123Subdomain(value))
}

// QualifiedName demands a name as label keys have it.
func (l *List) QualifiedName(at *field.Path, value string) {
	l.Messages(at, value, validation.IsQualifiedName(value))
}

// NonNegative demands zero or more.
func (l *List) NonNegative(at *field.Path, n int64) {
	l.Add(apivalidation.ValidateNonnegativeField(n, at)...)
}

// Mode demands permission bits.
func (l *List) Mode(at *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		l.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

// Seconds demands a number of seconds between low and the largest 32-bit number.
func (l *List) Seconds(at *field.Path, n int64, low int) {
	if n < int64(low) || n > math.MaxInt32 {
		l.Invalid(at, n, validation.InclusiveRangeError(low, math.MaxInt32))
	}
}

// OneOf demands one of the allowed values, and names them in that order.
func OneOf[T ~string](l *List, at *field.Path, value T, allowed ...T) {
	if !slices.Contains(allowed, value) {
		l.Add(field.NotSupported(at, value, allowed))
	}
}

// OneOfRequired demands one of the allowed values and calls an empty one missing.
func OneOfRequired[T ~string](l *List, at *field.Path, value T, allowed ...T) {
	if value == "" {
		l.Required(at, "")
		return
	}
	OneOf(l, at, value, allowed...)
}

// Quantity demands an amount that is not negative, and whole where whole is set.
func (l *List) Quantity(at *field.Path, q resource.Quantity, whole bool) {
	if q.Sign() < 0 {
		l.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg)
	}
	if whole && q.MilliValue()%1000 != 0 {
		l.Invalid(at, q, NotInteger)
	}
}

// TooMany says that a list is longer than allowed.
func (l *List) TooMany(at *field.Path, have, limit int) {
	if have > limit {
		l.Add(field.TooMany(at, have, limit))
	}
}

// Seen finds repetitions.
type Seen map[string]bool

// Again says whether the value was there before, and remembers it.
func (s Seen) Again(value string) bool {
	if s[value] {
		return true
	}
	s[value] = true
	return false
}

// InOrder walks a map by sorted keys, so that errors come in the same order each time.
func InOrder[K ~string, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// Same demands that a value did not change.
func (l *List) Same(at *field.Path, new, old any) {
	l.Add(apivalidation.ValidateImmutableField(new, old, at)...)
}

// Size demands that contents stay below a limit of bytes.
func (l *List) Size(at *field.Path, bytes, limit int) {
	if bytes > limit {
		l.Add(field.TooLong(at, "", limit))
	}
}

// Length demands at most so many bytes, in the words that events use.
func (l *List) Length(at *field.Path, value string, limit int) {
	if len(value) > limit {
		l.Invalid(at, "", fmt.Sprintf("can have at most %v characters", limit))
	}
}
