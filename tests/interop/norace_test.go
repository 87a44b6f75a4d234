//go:build linux && !race

package interop

const race = false
