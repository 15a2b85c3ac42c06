//go:build !packed

package bundle

// packed is empty in a build without the tag: companions are then looked for beside the executable.
var packed = map[string]program{}
