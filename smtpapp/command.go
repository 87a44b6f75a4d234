package smtpapp

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "smtp",
		Usage: "queue [list|show|retry]",
		Short: "Looks into the mail queue of a running Caddy",
		Long: `
Asks the admin API of a running Caddy about its mail queue.

	caddy smtp queue                the entries
	caddy smtp queue show <id>      one entry as JSON
	caddy smtp queue retry <id>     an attempt now

The API's address is that of --address, of the configuration file, or the
default.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.PersistentFlags().StringP("address", "", "", "Address of the admin API")
			cmd.PersistentFlags().StringP("config", "c", "", "Configuration file to read the admin address from")
			cmd.PersistentFlags().StringP("adapter", "a", "", "Adapter of the configuration file")
			queue := &cobra.Command{Use: "queue", Short: "Shows the queue", Args: cobra.NoArgs, RunE: run(queueList)}
			queue.AddCommand(
				&cobra.Command{Use: "list", Short: "Lists the entries", Args: cobra.NoArgs, RunE: run(queueList)},
				&cobra.Command{Use: "show <id>", Short: "Shows one entry", Args: cobra.ExactArgs(1), RunE: run(queueShow)},
				&cobra.Command{Use: "retry <id>", Short: "Tries an entry now", Args: cobra.ExactArgs(1), RunE: run(queueRetry)},
			)
			cmd.AddCommand(queue)
		},
	})
}

// An api is the admin API at an address.
type api struct{ addr string }

func run(f func(api, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			addr, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
			if err == nil {
				err = f(api{addr}, args)
			}
			if err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		})(cmd, args)
	}
}

func (a api) do(method, path string, w io.Writer) error {
	resp, err := caddycmd.AdminAPIRequest(a.addr, method, path, http.Header{}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

func queueShow(a api, args []string) error {
	return a.do(http.MethodGet, "/smtp/queue/"+url.PathEscape(args[0]), os.Stdout)
}

func queueRetry(a api, args []string) error {
	return a.do(http.MethodPost, "/smtp/queue/"+url.PathEscape(args[0])+"/retry", os.Stdout)
}

// queueList prints a line for each recipient.
func queueList(a api, _ []string) error {
	resp, err := caddycmd.AdminAPIRequest(a.addr, http.MethodGet, "/smtp/queue?limit=10000", http.Header{}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var entries []entryView
	if err := json.NewDecoder(resp.Body).Decode(&entries); err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tQUEUED\tFROM\tTO\tAGENT\tATTEMPTS\tNEXT\tLAST REPLY")
	for _, e := range entries {
		for _, r := range e.Recipients {
			fmt.Fprintf(w, "%s\t%s\t<%s>\t<%s>\t%s\t%d\t%s\t%s\n", e.ID, stamp(e.Queued), e.From, r.Address, r.Agent, r.Attempts, stamp(r.Next), r.Reply)
		}
	}
	return w.Flush()
}

func stamp(t time.Time) string { return t.Local().Format(time.DateTime) }
