package smtpapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddymail/caddy-smtp/smtpapp/guard"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
)

// bans lists the bans in force, or lifts those that concern an address or a
// network.
func (a *admin) bans(w http.ResponseWriter, r *http.Request) error {
	if _, err := activeApp(); err != nil {
		return err
	}
	whom := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/smtp/bans"), "/")
	if whom == "" {
		if err := method(r, http.MethodGet); err != nil {
			return err
		}
		return answerBans(w, theGuard().Bans())
	}
	if err := method(r, http.MethodDelete); err != nil {
		return err
	}
	p, err := addressOrNetwork(whom)
	if err != nil {
		return apiError(http.StatusBadRequest, err)
	}
	lifted := theGuard().Lift(p)
	if len(lifted) == 0 {
		return apiError(http.StatusNotFound, errors.New("no ban concerns "+p.String()))
	}
	return answerBans(w, lifted)
}

func answerBans(w http.ResponseWriter, bans []guard.Ban) error {
	if bans == nil {
		bans = []guard.Ban{}
	}
	return answer(w, bans)
}

func addressOrNetwork(s string) (netip.Prefix, error) {
	if s == "private_ranges" {
		return netip.Prefix{}, errors.New("an address or a network is wanted")
	}
	nets, err := pattern.ParseNetworks([]string{s})
	if err != nil {
		return netip.Prefix{}, err
	}
	return nets[0], nil
}

// bansCommand is `caddy smtp bans`.
func bansCommand() *cobra.Command {
	list := run(func(a api, _ []string) error {
		return a.printBans(http.MethodGet, "/smtp/bans", os.Stdout)
	})
	cmd := &cobra.Command{Use: "bans", Short: "Shows and lifts bans for failed logins", Args: cobra.NoArgs, RunE: list}
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "Lists the bans in force", Args: cobra.NoArgs, RunE: list},
		&cobra.Command{
			Use: "lift <address>", Short: "Lifts the bans of an address or a network", Args: cobra.ExactArgs(1),
			Long: "Lifts all bans that concern an address or a network, forgets the failures that led to\n" +
				"them, and prints what it has lifted. Other nodes follow within a minute or two.",
			RunE: run(func(a api, args []string) error {
				if _, err := addressOrNetwork(args[0]); err != nil {
					return err
				}
				return a.printBans(http.MethodDelete, "/smtp/bans/"+args[0], os.Stdout)
			}),
		},
	)
	return cmd
}

func (a api) printBans(method, path string, out io.Writer) error {
	resp, err := caddycmd.AdminAPIRequest(a.addr, method, path, http.Header{}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var bans []guard.Ban
	if err := json.NewDecoder(resp.Body).Decode(&bans); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NETWORK\tBY\tSINCE\tUNTIL\tTIMES")
	for _, b := range bans {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", b.Network, b.Scope, stamp(b.Since), stamp(b.Until), b.Strikes)
	}
	return w.Flush()
}
