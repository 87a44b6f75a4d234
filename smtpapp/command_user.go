package smtpapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/userfile"
)

const userHelp = `
Edits the file of users of an 'auth { file ... }'. A running server reads it again
by itself. The file is that of --file, or the one that the configuration names.

	caddy smtp user add alice@example.org --address alice@example.org
	caddy smtp user add alice@example.org --name phone      an app password
	caddy smtp user revoke alice@example.org phone
	caddy smtp user passwd alice@example.org
	caddy smtp user list
	caddy smtp user delete alice@example.org

Passwords are asked for on the terminal, read from standard input with
--password-stdin, or made up and printed once with --generate, as app passwords
are anyway; never are they taken from the command line, where others see them.`

// userCommand is `caddy smtp user`.
func userCommand() *cobra.Command {
	user := &cobra.Command{Use: "user", Short: "Edits the file of users", Long: userHelp, Args: cobra.NoArgs}
	user.PersistentFlags().StringP("file", "f", "", "File of users")
	add := &cobra.Command{Use: "add <user>", Short: "Adds a user, or with --name an app password", Long: userHelp, Args: cobra.ExactArgs(1), RunE: runUsers(userAdd)}
	add.Flags().StringArray("address", nil, "Address that the user may send from, *@domain for all of a domain; may be repeated")
	passwd := &cobra.Command{Use: "passwd <user>", Short: "Changes a password", Long: userHelp, Args: cobra.ExactArgs(1), RunE: runUsers(userPasswd)}
	for _, c := range []*cobra.Command{add, passwd} {
		c.Flags().String("name", "", "Name of an app password or a device")
		c.Flags().String("algorithm", "argon2id", "Hash: argon2id or bcrypt")
		c.Flags().Bool("no-scram", false, "Make no keys for SCRAM-SHA-256")
		c.Flags().Bool("plain", false, "Keep the password itself too, for CRAM-MD5")
		c.Flags().Bool("generate", false, "Make a password and print it")
		c.Flags().Bool("password-stdin", false, "Read the password from standard input")
		c.MarkFlagsMutuallyExclusive("generate", "password-stdin")
	}
	user.AddCommand(add, passwd,
		&cobra.Command{Use: "list [<user>]", Short: "Lists users and their secrets", Long: userHelp, Args: cobra.MaximumNArgs(1), RunE: runUsers(userList)},
		&cobra.Command{Use: "delete <user>", Short: "Deletes a user with all secrets", Long: userHelp, Args: cobra.ExactArgs(1), RunE: runUsers(userDelete)},
		&cobra.Command{Use: "revoke <user> <name>", Short: "Deletes an app password", Long: userHelp, Args: cobra.ExactArgs(2), RunE: runUsers(userRevoke)},
	)
	return user
}

// A users is the file of users that a command is for.
type users struct{ path, used string }

func runUsers(f func(users, *cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			u, err := findUsers(fl)
			if err == nil {
				err = f(u, cmd, args)
			}
			if err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			return caddy.ExitCodeSuccess, nil
		})(cmd, args)
	}
}

// findUsers takes the file that is given, or else the one of the configuration.
func findUsers(fl caddycmd.Flags) (users, error) {
	if path := fl.String("file"); path != "" {
		return users{path, path + ".used"}, nil
	}
	cfg, _, _, err := caddycmd.LoadConfig(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return users{}, err
	}
	found, err := usersIn(cfg)
	switch {
	case err != nil:
		return users{}, err
	case len(found) == 0:
		return users{}, errors.New("the configuration names no file of users; give --file")
	case len(found) > 1:
		return users{}, errors.New("the configuration names several files of users; give --file")
	}
	return found[0], nil
}

// usersIn are the files of all sources in a configuration.
func usersIn(cfg []byte) ([]users, error) {
	var c struct {
		Apps struct {
			SMTP any `json:"smtp"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(cfg, &c); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var found []users
	var walk func(v any) error
	walk = func(v any) error {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				if err := walk(x); err != nil {
					return err
				}
			}
		case map[string]any:
			if u, ok, err := usersOf(v); err != nil {
				return err
			} else if ok && !slices.Contains(found, u) {
				found = append(found, u)
			}
			for _, x := range v {
				if err := walk(x); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return found, walk(c.Apps.SMTP)
}

// usersOf reads the JSON of a source, if it is one.
func usersOf(source map[string]any) (u users, ok bool, err error) {
	path, ok := source["path"].(string)
	if source["source"] != "file" || !ok {
		return u, false, nil
	}
	repl := caddy.NewReplacer()
	if u.path, err = repl.ReplaceOrErr(path, true, true); err != nil {
		return u, false, err
	}
	used, _ := source["used"].(string)
	if u.used, err = repl.ReplaceOrErr(used, true, true); err != nil {
		return u, false, err
	}
	if u.used == "" {
		u.used = u.path + ".used"
	}
	return u, true, nil
}

func userAdd(u users, cmd *cobra.Command, args []string) error {
	name, err := login.Name(args[0])
	if err != nil {
		return err
	}
	secret, _ := cmd.Flags().GetString("name")
	addresses, _ := cmd.Flags().GetStringArray("address")
	return u.change(cmd, name, secret, secret == "", func(f *userfile.File, s login.Secret) error {
		if secret != "" && len(f.Of(name)) == 0 {
			return fmt.Errorf("'%s': %w; add him without --name first", name, userfile.ErrNoUser)
		}
		return f.Add(name, s, time.Now(), addresses)
	})
}

func userPasswd(u users, cmd *cobra.Command, args []string) error {
	name, err := login.Name(args[0])
	if err != nil {
		return err
	}
	secret, _ := cmd.Flags().GetString("name")
	return u.change(cmd, name, secret, false, func(f *userfile.File, s login.Secret) error {
		return f.Replace(name, s, time.Now())
	})
}

// change makes a secret of the password that the flags tell, and has it put into
// the file. A first look is taken without asking, so that nobody types a password
// for nothing.
func (u users) change(cmd *cobra.Command, user, secret string, create bool, put func(*userfile.File, login.Secret) error) error {
	if secret != "" {
		if err := userfile.CheckName(secret); err != nil {
			return err
		}
	}
	fl := caddycmd.Flags{FlagSet: cmd.Flags()}
	form := userfile.Form{Algorithm: fl.String("algorithm"), NoSCRAM: fl.Bool("no-scram"), Plain: fl.Bool("plain")}
	if err := u.rehearse(user, secret, create, put); err != nil {
		return err
	}
	password, made, err := newPassword(fl, secret != "", fmt.Sprintf("Password for %s: ", user))
	if err != nil {
		return err
	}
	err = userfile.Edit(u.path, create, func(f *userfile.File) error {
		s, err := f.NewSecret(user, secret, password, form)
		if err != nil {
			return err
		}
		if err := put(f, s); err != nil {
			return err
		}
		return u.checkMode(f)
	})
	if err == nil && made {
		fmt.Fprintln(os.Stdout, password)
	}
	return err
}

// rehearse does to a copy of the file what will be done to it.
func (u users) rehearse(user, secret string, create bool, put func(*userfile.File, login.Secret) error) error {
	b, err := os.ReadFile(u.path)
	if err != nil && (!os.IsNotExist(err) || !create) {
		return err
	}
	f, err := userfile.Parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w", u.path, err)
	}
	return put(f, login.Secret{Name: secret, Plain: "rehearsal"})
}

// checkMode refuses a password in a file that everybody may read.
func (u users) checkMode(f *userfile.File) error {
	info, err := os.Stat(u.path)
	if err != nil {
		return err
	}
	warning, err := userfile.CheckMode(info.Mode(), f.Plain())
	if err != nil {
		return fmt.Errorf("%s: %w", u.path, err)
	}
	if warning != "" {
		fmt.Fprintf(os.Stderr, "%s: %s\n", u.path, warning)
	}
	return nil
}

func userDelete(u users, _ *cobra.Command, args []string) error {
	name, err := login.Name(args[0])
	if err != nil {
		return err
	}
	return userfile.Edit(u.path, false, func(f *userfile.File) error { return f.Delete(name) })
}

func userRevoke(u users, _ *cobra.Command, args []string) error {
	name, err := login.Name(args[0])
	if err != nil {
		return err
	}
	return userfile.Edit(u.path, false, func(f *userfile.File) error { return f.Revoke(name, args[1]) })
}

func userList(u users, _ *cobra.Command, args []string) error {
	b, err := os.ReadFile(u.path)
	if err != nil {
		return err
	}
	f, err := userfile.Parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w", u.path, err)
	}
	used, err := userfile.ReadUses(u.used)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", u.used, err)
	}
	entries := f.Entries
	if len(args) > 0 {
		name, err := login.Name(args[0])
		if err != nil {
			return err
		}
		if entries = f.Of(name); len(entries) == 0 {
			return fmt.Errorf("'%s': %w", name, userfile.ErrNoUser)
		}
	}
	return printUsers(os.Stdout, entries, used)
}

// printUsers prints a line for each line of the file, without anything secret.
func printUsers(out io.Writer, entries []*userfile.Entry, used map[userfile.Use]time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "USER\tSECRET\tKEPT AS\tCREATED\tLAST USED\tADDRESSES")
	for _, e := range entries {
		last := time.Time{}
		if e.Secret.Forms() != 0 {
			last = used[userfile.Use{User: e.User, Name: e.Name}]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.User, orDash(e.Name), orDash(keptAs(&e.Secret)), day(e.Created), day(last), orDash(strings.Join(e.Addresses, " ")))
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return stamp(t)
}

func keptAs(s *login.Secret) string {
	var forms []string
	if h, err := login.ParseHash(s.Hash); err == nil {
		forms = append(forms, h.Algorithm)
	}
	for _, k := range s.SCRAM {
		forms = append(forms, "SCRAM-"+k.Hash)
	}
	if s.Plain != "" {
		forms = append(forms, "plain")
	}
	return strings.Join(forms, " ")
}
