package ldap

import (
	"errors"
	"fmt"
	"strings"
)

// fill puts the name of a user into a DN or a filter.
func fill(template, user string) string {
	local, domain := user, ""
	if i := strings.LastIndexByte(user, '@'); i >= 0 {
		local, domain = user[:i], user[i+1:]
	}
	return strings.NewReplacer("{user}", escape(user), "{local}", escape(local), "{domain}", escape(domain)).Replace(template)
}

// escape writes all but the plainest characters as \xx, which means the same in
// a DN (RFC 4514, section 2.4) and in a filter (RFC 4515, section 3).
func escape(s string) string {
	const hex = "0123456789abcdef"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '.', c == '@', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.WriteString(`\` + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
	return b.String()
}

// checkTemplate checks a DN or a filter that must depend on the user.
func checkTemplate(template string, parse func(string) error) error {
	filled := fill(template, "user@domain")
	switch {
	case filled == template:
		return fmt.Errorf("ldap: there is neither {user} nor {local} in '%s'", template)
	case strings.ContainsAny(filled, "{}"):
		return fmt.Errorf("ldap: '%s' has something in braces that is none of {user}, {local} and {domain}", template)
	case !strings.Contains(template, "{user}") && !strings.Contains(template, "{local}"):
		return errors.New("ldap: {domain} alone is nobody's name")
	}
	if err := parse(filled); err != nil {
		return fmt.Errorf("ldap: '%s': %w", template, err)
	}
	return nil
}
