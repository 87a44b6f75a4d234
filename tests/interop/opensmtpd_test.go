//go:build linux

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// An opensmtpd receives for user@far.test and nobody else.
type opensmtpd struct {
	t         testing.TB
	dir, addr string
	proc      *process
}

// opensmtpdBinary is where .ci/install unpacks it: its package conflicts with
// Postfix's.
const opensmtpdBinary = "/opt/opensmtpd/usr/sbin/smtpd"

// newOpensmtpd writes a configuration; what listen says comes behind the
// address to listen on.
func newOpensmtpd(t testing.TB, addr, listen string) *opensmtpd {
	t.Helper()
	if _, err := os.Stat(opensmtpdBinary); err != nil {
		missing(t, "opensmtpd is not installed")
	}
	needRoot(t, "opensmtpd")
	o := &opensmtpd{t: t, dir: openDir(t), addr: addr}
	for name, mode := range map[string]os.FileMode{"spool": 0o711, "mail": 0o755} {
		if err := os.Mkdir(filepath.Join(o.dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	chown(t, filepath.Join(o.dir, "mail"), "nobody")
	cert, key := selfSigned(t, o.dir, "opensmtpd.test")
	host, port := split(t, addr)
	conf := fmt.Sprintf(`pki here cert "%[1]s"
pki here key "%[2]s"
table users { "user@far.test" = nobody }
listen on %[3]s port %[4]s hostname opensmtpd.test %[5]s
action "boxes" maildir "%[6]s/mail" virtual <users>
match from any for domain "far.test" action "boxes"
`, cert, key, host, port, listen, o.dir)
	if err := os.WriteFile(filepath.Join(o.dir, "smtpd.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

// start gives it a spool and a control socket of its own, whose paths are
// compiled in.
func (o *opensmtpd) start() {
	o.t.Helper()
	o.proc = start(o.t, "opensmtpd", contained("sh", "-ec", `
		mount -t tmpfs none /run
		mount --bind "$1/spool" /var/spool/smtpd
		exec "$2" -d -f "$1/smtpd.conf"`, "sh", o.dir, opensmtpdBinary))
	o.proc.serves(o.t, "tcp", o.addr)
}

func (o *opensmtpd) box() string { return filepath.Join(o.dir, "mail") }
