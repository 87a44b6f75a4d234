//go:build !unix

package execauth

import "os/exec"

// alone changes nothing where there are no process groups.
func alone(*exec.Cmd) {}

func kill(cmd *exec.Cmd) error { return cmd.Process.Kill() }
