package smtpapp

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "smtp",
		Usage: "queue|dkim|bans|user ...",
		Short: "Looks into the mail, the DKIM keys and the bans of a running Caddy, and edits files of users",
		Long: `
Asks the admin API of a running Caddy about its mail queue, DKIM keys and bans,
and edits files of users, for which no Caddy need run.

	caddy smtp queue --help         the queue, and what can be done to it
	caddy smtp dkim show            the DNS records of all keys
	caddy smtp dkim rotate <domain> new keys, as soon as DNS has them
	caddy smtp bans                 who is banned for failed logins
	caddy smtp bans lift <address>  and is not any more
	caddy smtp user --help          the file of users, their passwords and app passwords

The API's address is that of --address, of the configuration file, or the
default.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.PersistentFlags().StringP("address", "", "", "Address of the admin API")
			cmd.PersistentFlags().StringP("config", "c", "", "Configuration file to read the admin address from")
			cmd.PersistentFlags().StringP("adapter", "a", "", "Adapter of the configuration file")
			cmd.AddCommand(queueCommand(), dkimCommand(), bansCommand(), userCommand())
		},
	})
}

// An api is the admin API at an address.
type api struct{ addr string }

func run(f func(api, []string) error) func(*cobra.Command, []string) error {
	return runCommand(func(a api, _ *cobra.Command, args []string) (int, error) {
		return caddy.ExitCodeFailedStartup, f(a, args)
	})
}

// runCommand runs f, which returns the exit code that its error has.
func runCommand(f func(api, *cobra.Command, []string) (int, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			addr, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
			code := caddy.ExitCodeFailedStartup
			if err == nil {
				code, err = f(api{addr}, cmd, args)
			}
			if err != nil {
				return code, err
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
