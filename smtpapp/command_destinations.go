package smtpapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// destinationCommands are those about what mail waits for, not about the mail.
func destinationCommands() []*cobra.Command {
	list := &cobra.Command{
		Use: "destinations [<destination>]", Short: "Lists the destinations that are paused, or have less than they may have", Args: cobra.MaximumNArgs(1),
		RunE: runCommand(listDestinations),
	}
	list.Flags().Bool("all", false, "List those that have all they may have too")
	list.Flags().Bool("json", false, "Print them as lines of JSON")
	resume := &cobra.Command{
		Use: "resume [<destination>]", Short: "Has destinations treated as if nothing were known of them", Args: cobra.MaximumNArgs(1),
		RunE: runCommand(resumeDestinations),
	}
	resume.Flags().Bool("all", false, "Resume all of them")
	for _, c := range []*cobra.Command{list, resume} {
		c.Flags().String("agent", "", "Delivery agent")
		c.Flags().String("source", "", "Source of a pool")
	}
	return []*cobra.Command{list, resume}
}

// siteQuery returns what the flags and the argument choose.
func siteQuery(cmd *cobra.Command, args []string) url.Values {
	v := url.Values{}
	for _, name := range []string{"agent", "source"} {
		if fl := cmd.Flags().Lookup(name); fl.Changed {
			v.Set(name, fl.Value.String())
		}
	}
	if len(args) > 0 {
		v.Set("destination", args[0])
	}
	if flag(cmd, "all") {
		v.Set("all", "true")
	}
	return v
}

func listDestinations(a api, cmd *cobra.Command, args []string) (int, error) {
	resp, err := caddycmd.AdminAPIRequest(a.addr, http.MethodGet, "/smtp/destinations?"+siteQuery(cmd, args).Encode(), http.Header{}, nil)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer resp.Body.Close()
	var ss []queue.Standing
	if err := json.NewDecoder(resp.Body).Decode(&ss); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if flag(cmd, "json") {
		enc := json.NewEncoder(cmd.OutOrStdout())
		for _, s := range ss {
			if err := enc.Encode(s); err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
		}
		return 0, nil
	}
	return caddy.ExitCodeFailedStartup, printStandings(cmd.OutOrStdout(), ss)
}

func printStandings(out io.Writer, ss []queue.Standing) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AGENT\tDESTINATION\tSTATE\tUNTIL\tATTEMPTS\tRATES\tWHY")
	for _, s := range ss {
		until := ""
		if !s.Until.IsZero() {
			until = stamp(s.Until)
		}
		var rates []string
		for _, r := range s.Rates {
			rates = append(rates, fmt.Sprintf("%d/%d %s in %s", r.Used, r.Limit, r.Of, time.Duration(r.Seconds*float64(time.Second))))
		}
		where := oneLine(s.Destination)
		if s.Source != "" {
			where += " from " + s.Source
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d/%d\t%s\t%s\n", s.Agent, where, s.State, until, s.Running, s.Limit, strings.Join(rates, ", "), oneLine(s.Reason))
	}
	return w.Flush()
}

func resumeDestinations(a api, cmd *cobra.Command, args []string) (int, error) {
	v := siteQuery(cmd, args)
	v.Set("do", "resume")
	resp, err := caddycmd.AdminAPIRequest(a.addr, http.MethodPost, "/smtp/destinations?"+v.Encode(), http.Header{}, nil)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer resp.Body.Close()
	var n resumed
	if err := json.NewDecoder(resp.Body).Decode(&n); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if n.Resumed == 0 {
		return exitNothing, errors.New("no such destination is paused, or has less than it may have")
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d resumed\n", n.Resumed)
	return 0, nil
}
