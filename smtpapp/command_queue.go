package smtpapp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// exitNothing is the exit code of a command that has found nothing to act on.
const exitNothing = 4

const queueHelp = `
Entries are named by their ids, or chosen by filters: an entry has to match all
of them. Filters of recipients choose recipients; what else the entry has is
left alone.

	caddy smtp queue --domain far.test --older 4h
	caddy smtp queue hold 6y2k4q0d9r3t8v1w5x7z0000
	caddy smtp queue retry --reply 'greylisted'
	caddy smtp queue delete --sender spammer@example.com --yes
	caddy smtp queue reassign --domain far.test --to smarthost
	caddy smtp queue export --domain far.test --dir /tmp/mail

What is being tried at the moment is not interrupted: hold, delete and reassign
are done to whoever is left when the attempt is over.

Exit codes: 0 for done, 1 for an error, 4 if there was nothing to act on.`

func queueCommand() *cobra.Command {
	q := &cobra.Command{Use: "queue", Short: "Shows the queue, and acts on it", Long: queueHelp, Args: cobra.NoArgs, RunE: runCommand(queueList)}
	list := &cobra.Command{Use: "list", Short: "Lists the entries", Long: queueHelp, Args: cobra.NoArgs, RunE: runCommand(queueList)}
	for _, c := range []*cobra.Command{q, list} {
		filterFlags(c)
		c.Flags().Int("limit", 1000, "How many entries are listed at most")
		c.Flags().Bool("json", false, "Print the entries as lines of JSON")
	}
	show := &cobra.Command{
		Use: "show <id>", Short: "Shows one entry: envelope, recipients, and their attempts", Args: cobra.ExactArgs(1), RunE: runCommand(queueShow),
	}
	show.Flags().Bool("content", false, "Print the message instead")
	export := &cobra.Command{Use: "export [<id>...]", Short: "Writes messages to files named <id>.eml", Long: queueHelp, RunE: runCommand(queueExport)}
	filterFlags(export)
	export.Flags().String("dir", ".", "Folder to write to; it is made if it is not there")
	export.Flags().Bool("all", false, "Export the whole queue")
	q.AddCommand(list, show, export)
	q.AddCommand(destinationCommands()...)
	for deed, short := range map[queue.Deed]string{
		queue.Retry:    "Tries entries now; by id, or with --held, held ones too",
		queue.Hold:     "Keeps entries from being tried until they are released",
		queue.Release:  "Has held entries tried again",
		queue.Delete:   "Deletes entries, without a word unless --report is given",
		queue.Reassign: "Gives entries to another delivery agent",
	} {
		q.AddCommand(deedCommand(deed, short))
	}
	return q
}

func deedCommand(deed queue.Deed, short string) *cobra.Command {
	c := &cobra.Command{Use: string(deed) + " [<id>...]", Short: short, Long: short + ".\n" + queueHelp, RunE: runCommand(func(a api, cmd *cobra.Command, args []string) (int, error) {
		return queueOperate(a, deed, cmd, args)
	})}
	filterFlags(c)
	c.Flags().Bool("all", false, "Act on the whole queue")
	switch deed {
	case queue.Delete:
		c.Flags().Bool("report", false, "Send DSNs to the senders")
		c.Flags().Bool("yes", false, "Delete all that the filters choose, without which they are only counted")
	case queue.Reassign:
		c.Flags().String("to", "", "Agent that is to deliver")
		_ = c.MarkFlagRequired("to")
	}
	return c
}

// filterNames are the filters of the API that are flags too.
var filterNames = []struct{ name, usage string }{
	{"sender", "Envelope sender; <> for none"},
	{"recipient", "Recipient's address"},
	{"domain", "Recipient's domain"},
	{"agent", "Delivery agent"},
	{"older", "Queued for at least this long, such as 4h or 2d"},
	{"younger", "Queued for less than this"},
	{"reply", "Part of the last reply"},
}

func filterFlags(c *cobra.Command) {
	for _, f := range filterNames {
		c.Flags().String(f.name, "", f.usage)
	}
	c.Flags().Bool("held", false, "Held or, with =false, not")
}

// query returns what the flags choose.
func query(cmd *cobra.Command) url.Values {
	v := url.Values{}
	for _, f := range filterNames {
		if fl := cmd.Flags().Lookup(f.name); fl.Changed { // one that is empty is an error there
			v.Set(f.name, fl.Value.String())
		}
	}
	if f := cmd.Flags().Lookup("held"); f.Changed {
		v.Set("held", f.Value.String())
	}
	return v
}

func flag(cmd *cobra.Command, name string) bool {
	b, _ := cmd.Flags().GetBool(name)
	return b
}

// pages calls f for each entry that a query chooses, up to limit, until it
// returns an error.
func (a api) pages(v url.Values, limit int, f func(entryView) error) error {
	const page = 500
	for limit > 0 {
		v.Set("limit", strconv.Itoa(min(page, limit)))
		resp, err := caddycmd.AdminAPIRequest(a.addr, http.MethodGet, "/smtp/queue?"+v.Encode(), http.Header{}, nil)
		if err != nil {
			return err
		}
		var es []entryView
		err = json.NewDecoder(resp.Body).Decode(&es)
		resp.Body.Close()
		if err != nil {
			return err
		}
		for _, e := range es {
			if err := f(e); err != nil {
				return err
			}
			v.Set("after", e.ID)
		}
		if limit -= len(es); len(es) < min(page, limit+len(es)) {
			return nil
		}
	}
	return nil
}

// queueList prints a line for each recipient.
func queueList(a api, cmd *cobra.Command, _ []string) (int, error) {
	limit, _ := cmd.Flags().GetInt("limit")
	out := cmd.OutOrStdout()
	if flag(cmd, "json") {
		enc := json.NewEncoder(out)
		return caddy.ExitCodeFailedStartup, a.pages(query(cmd), limit, func(e entryView) error { return enc.Encode(e) })
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tQUEUED\tFROM\tTO\tAGENT\tATTEMPTS\tNEXT\tLAST REPLY")
	err := a.pages(query(cmd), limit, func(e entryView) error {
		for _, r := range e.Recipients {
			next := stamp(r.Next)
			if r.Held {
				next = "held: " + r.Reason
			}
			fmt.Fprintf(w, "%s\t%s\t<%s>\t<%s>\t%s\t%d\t%s\t%s\n", e.ID, stamp(e.Queued), e.From, r.Address, r.Agent, r.Attempts, next, oneLine(r.Reply))
		}
		return nil
	})
	return caddy.ExitCodeFailedStartup, errors.Join(err, w.Flush())
}

func stamp(t time.Time) string { return t.Local().Format(time.DateTime) }

// oneLine is a remote server's text for a terminal: without what moves the
// cursor.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

func queueShow(a api, cmd *cobra.Command, args []string) (int, error) {
	path := "/smtp/queue/" + url.PathEscape(args[0])
	if flag(cmd, "content") {
		return code(a.do(http.MethodGet, path+"/message", cmd.OutOrStdout()))
	}
	return code(a.do(http.MethodGet, path, cmd.OutOrStdout()))
}

// code returns an error with its exit code.
func code(err error) (int, error) {
	if err != nil && strings.Contains(err.Error(), "HTTP 404") { // Caddy has no error with a type for it
		return exitNothing, err
	}
	return caddy.ExitCodeFailedStartup, err
}

var errNothing = errors.New("nothing in the queue matches")

func queueExport(a api, cmd *cobra.Command, args []string) (int, error) {
	v := query(cmd)
	if err := named(cmd, args, v); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	dir, _ := cmd.Flags().GetString("dir")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	n := 0
	one := func(id string) error {
		n++
		return a.export(dir, id, cmd.OutOrStdout())
	}
	if len(args) > 0 {
		for _, id := range args {
			if err := one(id); err != nil {
				return code(err)
			}
		}
		return 0, nil
	}
	if err := a.pages(v, int(^uint(0)>>1), func(e entryView) error { return one(e.ID) }); err != nil {
		return code(err)
	}
	if n == 0 {
		return exitNothing, errNothing
	}
	return 0, nil
}

// export writes one message to a file that was not there, whole or not at all.
func (a api) export(dir, id string, out io.Writer) error {
	path := filepath.Join(dir, filepath.Base(id)+".eml")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = a.do(http.MethodGet, "/smtp/queue/"+url.PathEscape(id)+"/message", f)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	fmt.Fprintln(out, path)
	return nil
}

// named reports what is wrong with how entries are chosen: by ids, or filters,
// or all of them on purpose.
func named(cmd *cobra.Command, ids []string, v url.Values) error {
	all := flag(cmd, "all")
	switch {
	case len(ids) > 0 && (len(v) > 0 || all):
		return errors.New("name entries by id or by filter, not both")
	case len(ids)+len(v) == 0 && !all:
		return errors.New("no entry is named: give ids, filters, or --all")
	case len(v) > 0 && all:
		return errors.New("--all is the opposite of a filter")
	}
	return nil
}

func queueOperate(a api, deed queue.Deed, cmd *cobra.Command, ids []string) (int, error) {
	v := query(cmd)
	if err := named(cmd, ids, v); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	options := url.Values{}
	if deed == queue.Delete && flag(cmd, "report") {
		options.Set("report", "true")
	}
	if deed == queue.Reassign {
		to, _ := cmd.Flags().GetString("to")
		options.Set("to", to)
	}
	if len(ids) > 0 {
		return a.operateIDs(deed, ids, options, cmd.OutOrStdout())
	}
	if deed == queue.Delete && !flag(cmd, "yes") {
		n := 0
		if err := a.pages(v, int(^uint(0)>>1), func(entryView) error { n++; return nil }); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		return caddy.ExitCodeFailedStartup, fmt.Errorf("%d entries match; to delete them, say --yes", n)
	}
	for k := range options {
		v.Set(k, options.Get(k))
	}
	v.Set("do", string(deed))
	if flag(cmd, "all") {
		v.Set("all", "true")
	}
	return a.operateFilter(v, cmd.OutOrStdout())
}

func (a api) operateIDs(deed queue.Deed, ids []string, options url.Values, out io.Writer) (int, error) {
	var errs []error
	exit := caddy.ExitCodeFailedStartup
	for _, id := range ids {
		var c int
		err := a.do(http.MethodPost, "/smtp/queue/"+url.PathEscape(id)+"/"+string(deed)+"?"+options.Encode(), io.Discard)
		if c, err = code(err); err != nil {
			exit = c
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
			continue
		}
		fmt.Fprintln(out, id)
	}
	return exit, errors.Join(errs...)
}

// operateFilter prints a line each time that the server has got on.
func (a api) operateFilter(v url.Values, out io.Writer) (int, error) {
	resp, err := caddycmd.AdminAPIRequest(a.addr, http.MethodPost, "/smtp/queue?"+v.Encode(), http.Header{}, nil)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer resp.Body.Close()
	var l progressLine
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		l = progressLine{}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		if l.Finished || l.Error != "" {
			break
		}
		fmt.Fprintf(out, "%d entries, %d recipients (%d after the attempt that has them)\n", l.Entries, l.Recipients, l.InAttempt)
	}
	switch {
	case l.Error != "":
		return caddy.ExitCodeFailedStartup, fmt.Errorf("after %d entries: %s", l.Entries, l.Error)
	case !l.Finished:
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the connection broke off after %d entries", l.Entries)
	case l.Entries == 0:
		return exitNothing, errNothing
	}
	return 0, nil
}
