//go:build linux

package interop

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A group is a control group, which counts the CPU time of all processes that
// began in it, those that have ended too.
type group string

// newGroup makes one in the hierarchy that counts CPU time, of either version.
func newGroup(t testing.TB, name string) group {
	t.Helper()
	needRoot(t, "a control group")
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root += "/cpuacct"
	}
	g := group(fmt.Sprintf("%s/caddy-smtp-%s-%d", root, name, os.Getpid()))
	if err := os.Mkdir(string(g), 0o755); err != nil {
		missing(t, "control groups: "+err.Error())
	}
	t.Cleanup(func() {
		for range 100 { // until the kernel has seen its processes end
			if os.Remove(string(g)) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%s is not empty", g)
	})
	return g
}

// enter lets a command begin in the group, by way of a shell that enters it.
// No group is nowhere else.
func (g group) enter(cmd *exec.Cmd) *exec.Cmd {
	if g == "" {
		return cmd
	}
	cmd.Args = append([]string{"sh", "-c", `echo 0 >"$0" && exec "$@"`, filepath.Join(string(g), "cgroup.procs"), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	return cmd
}

// used returns the CPU time of the group so far.
func (g group) used(t testing.TB) time.Duration {
	t.Helper()
	unit := time.Nanosecond
	text, err := os.ReadFile(string(g) + "/cpuacct.usage")
	if err != nil {
		unit = time.Microsecond
		text, err = os.ReadFile(string(g) + "/cpu.stat")
		text = bytes.TrimPrefix(bytes.Split(text, []byte("\n"))[0], []byte("usage_usec "))
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * unit
}
