// Package provider has rules for mail to large providers: which domains and mail
// hosts are theirs, how little at once is surely not too much, and what the replies
// mean by which they ask for less. The figures are ours, chosen with caution; none
// of them is a promise of a provider. The package knows nothing of configurations.
package provider

import (
	"regexp"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// Rules returns the rules, which are the caller's. Each is named for its provider.
func Rules() []queue.Rule {
	out := slices.Clone(rules)
	for i := range out {
		out[i].Domains, out[i].Hosts = slices.Clone(out[i].Domains), slices.Clone(out[i].Hosts)
		slices.Sort(out[i].Domains) // as pattern.HasDomain wants them
		slices.Sort(out[i].Hosts)
		out[i].Readings = append(slices.Clone(out[i].Readings), common...)
	}
	return out
}

// What is made of replies. Whoever blocks an address of ours gets no more mail for
// a time, in which an operator can see to it: the mail waits in the place of being
// returned, message by message.
func slow(pattern string) queue.Reading {
	return queue.Reading{Pattern: compile(pattern), Slow: 15 * time.Minute}
}

func pause(pattern string) queue.Reading {
	return queue.Reading{Pattern: compile(pattern), Pause: 30 * time.Minute}
}

func blocked(pattern string) queue.Reading {
	return queue.Reading{Pattern: compile(pattern), Pause: time.Hour, Later: true}
}

func compile(pattern string) *regexp.Regexp { return regexp.MustCompile("(?i:" + pattern + ")") }

// common is what many of them say, with these words or similar ones.
var common = []queue.Reading{
	slow(`^4\d\d .*too many (concurrent )?(connections|sessions|messages|mails|recipients)`),
	slow(`^4\d\d .*(rate limit|throttl|slow(ing)? down|sending too (fast|many)|exceeded the (maximum|rate))`),
	pause(`^421 .*(temporarily (blocked|blacklisted|rejected)|reputation)`),
}

// rules have domains only where these are so common that a look-up of their hosts
// would be a waste; the hosts find the others.
var rules = []queue.Rule{
	together("gmail",
		[]string{"gmail.com", "googlemail.com"}, []string{"*.google.com", "*.googlemail.com"}, 20, 50,
		slow(`4\.7\.28|unusual rate of (unsolicited )?mail`),
		slow(`^421 4\.7\.0 .*try again later`),
		queue.Reading{Pattern: compile(`4\.2\.1 .*receiving mail (at a rate|too quickly)`)}, // of one mailbox
	),
	together("outlook",
		[]string{"outlook.com", "hotmail.com", "hotmail.co.uk", "hotmail.fr", "hotmail.de", "hotmail.it", "hotmail.es", "live.com", "msn.com", "passport.com"}, []string{"*.olc.protection.outlook.com"}, 10, 50,
		blocked(`block list \(S\d{3,4}\)|\((S3140|S3150)\)|\b(SC-00[14]|DY-00[12]|OU-00[12])\b`),
		slow(`\bRP-00[123]\b|4\.7\.(500|65\d)|server busy`),
	),
	together("microsoft365",
		nil, []string{"*.mail.protection.outlook.com", "*.mx.microsoft"}, 20, 50,
		blocked(`5\.7\.(511|60[6-9]|6[1-4]\d) .*(banned|blocked|access denied)`),
		slow(`4\.7\.(500|65\d)|server busy`),
	),
	together("yahoo",
		[]string{"yahoo.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de", "yahoo.it", "yahoo.es", "yahoo.ca", "yahoo.com.br", "yahoo.co.in", "ymail.com", "rocketmail.com", "aol.com", "aim.com"}, []string{"*.yahoodns.net"}, 10, 20,
		blocked(`\[TSS?03\]|\[BL2[13]\]|permanently deferred`),
		slow(`\[(TSS?|IPTS)\d\d\]|temporarily deferred|unexpected volume or user complaints`),
	),
	together("icloud",
		[]string{"icloud.com", "me.com", "mac.com"}, []string{"*.mail.icloud.com"}, 10, 20,
		slow(`^4\d\d .*(too many|not accepting)`),
	),
	together("comcast",
		[]string{"comcast.net"}, []string{"*.comcast.net"}, 5, 20,
		blocked(`\bBL00\d{4}\b|blocked for spam`),
		slow(`\bRL00\d{4}\b|throttled`),
	),
	together("gmx",
		[]string{"gmx.de", "gmx.net", "gmx.at", "gmx.ch", "gmx.com", "web.de", "mail.com"}, []string{"*.gmx.net", "*.web.de", "*.mail.com"}, 5, 20,
		blocked(`^554 .*(bad dns ptr|policy restrictions|blocked|blacklisted)`),
		slow(`mail send limit exceeded|temporarily deferred`),
	),
	together("t-online",
		[]string{"t-online.de", "magenta.de"}, []string{"*.t-online.de"}, 5, 20,
		blocked(`^554 .*(IP=|tosa@rx\.t-online\.de)`),
	),
	together("orange",
		[]string{"orange.fr", "wanadoo.fr"}, []string{"*.orange.fr", "*.wanadoo.fr"}, 2, 20,
		blocked(`^5\d\d .*(OFR\d*_506|OFR\d*_403).*`),
		slow(`OFR\w*_(104|109)`),
	),
	apart("proofpoint", []string{"*.pphosted.com", "*.ppe-hosted.com"}, 5, 20,
		blocked(`ipcheck\.proofpoint\.com|blocked .*proofpoint`),
	),
	apart("mimecast", []string{"*.mimecast.com"}, 5, 20,
		slow(`^4\d\d .*(internal resources|temporarily unavailable)`),
	),
}

// together is for a provider with one front for all domains.
func together(name string, domains, hosts []string, concurrency, perConnection int, rs ...queue.Reading) queue.Rule {
	r := apart(name, hosts, concurrency, perConnection, rs...)
	r.Domains, r.Together = domains, true
	return r
}

// apart is for hosts of many customers, who each take mail for themselves.
func apart(name string, hosts []string, concurrency, perConnection int, rs ...queue.Reading) queue.Rule {
	return queue.Rule{
		Name: name, Hosts: hosts, Concurrency: concurrency, First: min(concurrency, 2),
		PerAddress: max(2, concurrency/2), PerConnection: perConnection, Readings: rs,
	}
}
