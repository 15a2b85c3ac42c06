package registry

import "math/rand/v2"

const (
	// nameAlphabet has no vowels and nothing that looks like one, so that no words come about (apimachinery's rand.String).
	nameAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength = 5
	maxNameBase  = 63 - suffixLength
	maxNames     = 8 // tries until a free name is found
)

// generateName appends five random characters to a base, which is cut so that the name is a DNS label's length.
func generateName(base string) string {
	if len(base) > maxNameBase {
		base = base[:maxNameBase]
	}
	suffix := make([]byte, suffixLength)
	for i := range suffix {
		suffix[i] = nameAlphabet[rand.IntN(len(nameAlphabet))]
	}
	return base + string(suffix)
}
