//go:build unix

package pipe

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/mda"
)

// alone gives a command a process group, which ends as a whole, and its user.
func alone(cmd *exec.Cmd, o *mda.Owner) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return kill(cmd) }
	if o != nil && os.Geteuid() == 0 {
		cred := &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID)}
		for _, g := range o.Groups {
			cred.Groups = append(cred.Groups, uint32(g))
		}
		cmd.SysProcAttr.Credential = cred
	}
}

func kill(cmd *exec.Cmd) error {
	return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}

// permitted reports why this process cannot run programs as o.
func permitted(o *mda.Owner) error {
	switch me := os.Geteuid(); {
	case o == nil && me == 0:
		return errors.New("caddy runs as root: name the user that the program runs as")
	case o != nil && me != 0 && o.UID != me:
		return fmt.Errorf("only root can run a program as %s", o.Name)
	}
	return nil
}
