// Package match documents matchers: modules of the namespace smtp.matchers that
// say whether a route applies. Each says at which stage of a session it can
// decide; a handler that acts only before that is an error of the configuration.
//
//	remote_ip, local_port                     before the greeting
//	helo                                      EHLO
//	tls                                       AUTH
//	authenticated, mail_from, mail_from_domain  MAIL
//	rcpt, rcpt_domain                         RCPT, for each recipient
//	size, header                              message
//	lookup, expression, not                   whatever they look at
//
// In JSON a set of matchers is an object: each one's configuration under its
// name. All of a set must match. In a Caddyfile a set has a name:
//
//	@ours rcpt_domain example.org example.net
//	@strangers {
//		rcpt_domain example.org
//		not remote_ip 192.0.2.0/24
//	}
package match
