# Tools are pinned here and stay out of go.mod, which those who build with
# xcaddy inherit.
GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
XCADDY   = github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.5
CADDY    = v2.11.9
FUZZTIME ?= 1m

.PHONY: build test race lint fuzz soak bench demo xcaddy

build:
	go build -o caddy ./cmd/caddy

test:
	go test ./...

race:
	go test -race ./...

lint:
	go vet ./...
	go run $(GOLANGCI) run ./...

# fuzz runs every fuzz target for FUZZTIME.
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep ^Fuzz || true); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

# soak repeats what CI does briefly: kills, reloads, connections.
soak:
	CADDY_SMTP_SOAK=1 go test -race -timeout 60m -v -run 'Soak|Kill|Crash|Reload' ./tests/... ./smtpapp/queue/...

# bench measures the parts; each figure is for this machine and this run.
bench:
	go test -run '^$$' -bench . -benchmem ./smtpapp/...

# demo runs the quickstart.
demo:
	go run ./cmd/caddy run --config examples/quickstart.caddyfile

# xcaddy builds Caddy with this checkout, as a user would with a release.
xcaddy:
	go run $(XCADDY) build $(CADDY) --output bin/caddy-xcaddy --with github.com/caddymail/caddy-smtp@v0.0.0=.
