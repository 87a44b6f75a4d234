package smtpapp

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
)

// dkimCommand is `caddy smtp dkim`.
func dkimCommand() *cobra.Command {
	var check, now bool
	show := &cobra.Command{
		Use: "show [<domain>]", Short: "Prints the DNS records to publish", Args: cobra.MaximumNArgs(1),
		Long: "Prints the DNS records of all DKIM keys, or of a domain's, as lines of a zone file.\n" +
			"With --check it fails if DNS lacks one that signs or is to.",
		RunE: run(func(a api, args []string) error { return dkimShow(a, args, check, os.Stdout) }),
	}
	show.Flags().BoolVar(&check, "check", false, "Ask DNS whether it has them")
	rotate := &cobra.Command{
		Use: "rotate <domain>", Short: "Makes new keys", Args: cobra.ExactArgs(1),
		Long: "Makes new DKIM keys for a domain and prints the DNS records to publish. They sign as soon\n" +
			"as DNS has them; with --now they sign at once.",
		RunE: run(func(a api, args []string) error { return dkimRotate(a, args[0], now, os.Stdout) }),
	}
	rotate.Flags().BoolVar(&now, "now", false, "Sign with the new keys at once, whatever DNS has")
	cmd := &cobra.Command{Use: "dkim", Short: "Shows and replaces DKIM keys", Args: cobra.NoArgs, RunE: show.RunE}
	cmd.AddCommand(show, rotate)
	return cmd
}

func dkimShow(a api, args []string, check bool, w io.Writer) error {
	q := url.Values{}
	if len(args) > 0 {
		q.Set("domain", args[0])
	}
	if check {
		q.Set("check", "true")
	}
	keys, err := a.keys(http.MethodGet, "/smtp/dkim?"+q.Encode())
	if err != nil {
		return err
	}
	printKeys(w, keys)
	lacking := 0
	for _, k := range keys {
		if check && k.State != string(dkimkey.Retired) && k.DNS != string(dkimkey.Published) {
			lacking++
		}
	}
	if lacking > 0 {
		return fmt.Errorf("DNS lacks %d of them", lacking)
	}
	return nil
}

func dkimRotate(a api, domain string, now bool, w io.Writer) error {
	q := url.Values{"domain": {domain}, "now": {fmt.Sprint(now)}}
	keys, err := a.keys(http.MethodPost, "/smtp/dkim/rotate?"+q.Encode())
	if err == nil {
		printKeys(w, keys)
	}
	return err
}

func (a api) keys(method, path string) (keys []keyView, err error) {
	resp, err := caddycmd.AdminAPIRequest(a.addr, method, path, http.Header{}, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&keys)
	return keys, err
}

// printKeys prints zone file lines, each below a comment.
func printKeys(w io.Writer, keys []keyView) {
	for _, k := range keys {
		fmt.Fprintf(w, "; %s %s: %s", k.Domain, k.Algorithm, k.State)
		switch {
		case k.State == string(dkimkey.Next):
			fmt.Fprintf(w, ", to sign from %s on, and when DNS has it", stamp(k.Signs))
		case !k.Removed.IsZero():
			fmt.Fprintf(w, ", to go after %s", stamp(k.Removed))
		}
		if k.DNS != "" {
			fmt.Fprintf(w, "; DNS: %s", k.DNS)
		}
		fmt.Fprintf(w, "\n%s\n", dkimkey.ZoneRecord(k.Name, k.Record))
	}
}
