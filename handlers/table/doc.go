// Package table documents tables: modules of the namespace smtp.tables that
// look up a key, such as an address, and give the values that belong to it.
//
// A table has one method. Whoever uses tables declares the interface himself,
// since handlers do not import one another:
//
//	type Table interface {
//		// Lookup returns what belongs to key, and whether the table has the key
//		// at all: it may without a value. An error is one that may pass.
//		Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
//	}
//
// In JSON a table is an object with its module's name under "table". In a
// Caddyfile it is its module's name and what that takes:
//
//	aliases file /etc/caddy/aliases
//	aliases inline {
//		postmaster alice@example.org
//	}
//
// Tables compare keys without regard to case unless told otherwise.
package table
