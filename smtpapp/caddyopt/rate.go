package caddyopt

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// longestRate is the longest time that is counted: what is known of longer ones
// would be forgotten on the way.
const longestRate = 366 * 24 * time.Hour

// ParseRate parses how many there may be in what time, such as 200/1h.
func ParseRate(s string) (n int, per time.Duration, err error) {
	number, length, ok := strings.Cut(s, "/")
	count, err := strconv.ParseUint(number, 10, 31)
	if !ok || err != nil {
		return 0, 0, fmt.Errorf("'%s' is not a number and a time such as 200/1h", s)
	}
	per, err = caddy.ParseDuration(length)
	if err != nil || per < time.Second || per > longestRate || per%time.Second != 0 {
		return 0, 0, fmt.Errorf("'%s' is not a time of whole seconds, up to 366d", length)
	}
	return int(count), per, nil
}
