package caddyopt

import (
	"fmt"
	"io/fs"
	"strconv"
)

// ParseMode parses permission bits in octal; "" is unset.
func ParseMode(s string, unset fs.FileMode) (fs.FileMode, error) {
	if s == "" {
		return unset, nil
	}
	v, err := strconv.ParseUint(s, 8, 32)
	if err != nil || v > 0o777 {
		return 0, fmt.Errorf("'%s' is not a file mode", s)
	}
	return fs.FileMode(v), nil
}
