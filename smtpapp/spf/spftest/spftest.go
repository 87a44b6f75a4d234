// Package spftest reads the published test suites of SPF for tests: those of
// the openspf and pyspf projects, and others in their format.
package spftest

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// A Case is one check, in the zone of its suite.
type Case struct {
	Name           string
	Zone           *dnstest.Zone
	Host           netip.Addr
	Helo, MailFrom string
	Want           []string // any of these results
}

// Files are the suites, below the folder "spf" of the test vectors.
var Files = []string{"rfc7208-tests.yml", "pyspf-test.yml", "blitirispf-tests.yml"}

// Cases returns the cases of all suites. It skips the test if there are none
// here.
func Cases(t testing.TB) []Case {
	t.Helper()
	dir := os.Getenv("CADDY_SMTP_VECTORS")
	if dir == "" && os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
		t.Fatal("CADDY_SMTP_VECTORS is not set")
	}
	if dir == "" {
		t.Skip("CADDY_SMTP_VECTORS is not set")
	}
	var cases []Case
	for _, file := range Files {
		cs, err := read(filepath.Join(dir, "spf", file))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		cases = append(cases, cs...)
	}
	return cases
}

type suite struct {
	Description string
	Tests       map[string]struct {
		Helo, Host, MailFrom string
		Result               strs
		Strict               *int // of pyspf: other than 1 is a lax or harsh mode of its own
	}
	ZoneData map[string][]yaml.Node
}

// strs is a list of strings, or one.
type strs []string

func (s *strs) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*s = strs{n.Value}
		return nil
	}
	return n.Decode((*[]string)(s))
}

func read(file string) (cases []Case, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	for d := yaml.NewDecoder(f); ; {
		var s suite
		if err := d.Decode(&s); err == io.EOF {
			return cases, nil
		} else if err != nil {
			return nil, err
		}
		z, err := s.zone()
		if err != nil {
			return nil, err
		}
		names := make([]string, 0, len(s.Tests))
		for name := range s.Tests {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			tc := s.Tests[name]
			if tc.Strict != nil && *tc.Strict != 1 {
				continue
			}
			host, err := netip.ParseAddr(tc.Host)
			if err != nil {
				return nil, err
			}
			cases = append(cases, Case{filepath.Base(file) + "/" + name, z, host, tc.Helo, tc.MailFrom, tc.Result})
		}
	}
}

func (s *suite) zone() (*dnstest.Zone, error) {
	z := &dnstest.Zone{
		Host: map[string][]string{}, MX: map[string][]net.MX{}, TXT: map[string][]string{}, PTR: map[string][]string{},
		CNAME: map[string]string{}, Fail: map[string]bool{},
	}
	for name, records := range s.ZoneData {
		name = strings.ToLower(name)
		if err := fill(z, name, records); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return z, nil
}

// fill adds the records of a name. A policy of the old type SPF stands for one
// of type TXT, unless the name says what TXT records it has. TIMEOUT is the
// answer for all types that the name does not list.
func fill(z *dnstest.Zone, name string, records []yaml.Node) error {
	key := reverse(name)
	var old []string
	has := map[string]bool{}
	for _, r := range records {
		if r.Kind == yaml.ScalarNode {
			has[r.Value] = true
			continue
		}
		for i := 0; i+1 < len(r.Content); i += 2 {
			typ, val := r.Content[i].Value, r.Content[i+1]
			var words strs
			if err := val.Decode(&words); err != nil {
				return err
			}
			has[typ] = true
			switch {
			case typ == "SPF":
				old = append(old, strings.Join(words, ""))
			case typ == "TXT" && val.Value == "NONE":
				has["no TXT"] = true
			default:
				if err := add(z, name, key, typ, words); err != nil {
					return err
				}
			}
		}
	}
	if len(z.TXT[name]) == 0 && !has["no TXT"] {
		z.TXT[name] = old
	}
	has["TXT"] = len(z.TXT[name]) > 0
	if has["TIMEOUT"] || has["SERVFAIL"] || has["CNAMELOOP"] {
		fail(z, name, key, has)
	}
	return nil
}

// add adds one record.
func add(z *dnstest.Zone, name, key, typ string, words []string) error {
	switch typ {
	case "MX":
		n, err := strconv.Atoi(words[0])
		if err != nil {
			return err
		}
		z.MX[name] = append(z.MX[name], net.MX{Pref: uint16(n), Host: words[1]})
	case "A", "AAAA":
		z.Host[name] = append(z.Host[name], words...)
	case "PTR":
		z.PTR[key] = append(z.PTR[key], words...)
	case "CNAME":
		z.CNAME[name] = words[0]
	case "TXT":
		z.TXT[name] = append(z.TXT[name], strings.Join(words, ""))
	}
	return nil
}

func fail(z *dnstest.Zone, name, key string, has map[string]bool) {
	addresses := len(z.Host[name]) > 0
	for typ, there := range map[string]bool{
		"TXT": has["TXT"], "MX": has["MX"], "A": addresses, "AAAA": addresses, "ip": addresses, "ip4": addresses, "ip6": addresses,
	} {
		if !there {
			z.Fail[typ+" "+name] = true
		}
	}
	if !has["PTR"] {
		z.Fail["PTR "+key] = true
	}
}

// reverse returns the address that a name of the reverse zone stands for, or
// the name.
func reverse(name string) string {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		l := strings.Split(rest, ".")
		slices.Reverse(l)
		return strings.Join(l, ".")
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok {
		return name
	}
	l := strings.Split(rest, ".")
	slices.Reverse(l)
	hex := strings.Join(l, "")
	var groups []string
	for ; len(hex) >= 4; hex = hex[4:] {
		groups = append(groups, hex[:4])
	}
	ip, err := netip.ParseAddr(strings.Join(groups, ":"))
	if err != nil {
		return name
	}
	return ip.String()
}
