# Tools are pinned here and stay out of go.mod, which those who build with
# xcaddy inherit.
GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
XCADDY   = github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.5
CADDY    = v2.11.9
FUZZTIME ?= 1h

.PHONY: build test race lint fuzz model soak deferred bench parts demo xcaddy

build:
	go build -o caddy ./cmd/caddy

test:
	go test ./...

race:
	go test -race -timeout 30m ./...

lint:
	go vet ./...
	go run $(GOLANGCI) run ./...

# fuzz runs every fuzz target, one after the other, for FUZZTIME each. Inputs that
# are new are not made small for a minute each, which takes most of the time.
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep ^Fuzz || true); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$pkg; \
	  done; done

# soak repeats what CI does briefly: kills, ends, reloads, connections. With SOAK it is
# the tests so named alone: make soak SOAK='TestPowerCut$$'.
SOAK ?= Soak|Guessing|LoginTime|Kill|Terminated|PowerCut|IOErrors|DiskFull|Crash|EachCall|Reload|Memory|Overload|AckTime|UnknownRecipients|NoHerd|SlowClients|LinkRace|Bodies
soak:
	CADDY_SMTP_SOAK=1 go test -race -timeout 60m -v -run '$(SOAK)' ./tests/... ./smtpapp/queue/... ./smtpapp/client ./handlers/delivery/maildir

# deferred measures long queues: starts, memory, and the rate of accepting beside.
deferred:
	CADDY_SMTP_SOAK=1 go test -timeout 30m -v -run 'TestManyDeferred|TestStartsAtOnce|TestAcceptBesideDeferred' ./smtpapp/queue

# model holds sessions to an independent model, in ten million sequences.
model:
	CADDY_SMTP_MODEL=10000000 go test -timeout 3h -v -run TestModel ./smtpapp/session

# bench runs us beside Postfix, and writes the medians to docs/performance.md. It
# needs root, for control groups and a file system of its own.
RUNS ?= 5
bench:
	CADDY_SMTP_BENCH=$(RUNS) go test -timeout 60m -v -run TestBeside ./tests/interop

# parts measures the parts; each figure is for this machine and this run.
parts:
	go test -run '^$$' -bench . -benchmem ./smtpapp/... ./handlers/...

# demo runs the quickstart.
demo:
	go run ./cmd/caddy run --config examples/quickstart.caddyfile

# xcaddy builds Caddy with this checkout, as a user would with a release.
xcaddy:
	go run $(XCADDY) build $(CADDY) --output bin/caddy-xcaddy --with github.com/caddymail/caddy-smtp@v0.0.0=.
