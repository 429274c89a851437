# What a person and CI run. "make help" lists the targets.
#
# The repository is a workspace of several modules (go.work). Every target that
# speaks of "all" asks the go command which modules and packages there are, so
# that a new one is covered without an edit here.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB      ?= https://vuln.go.dev

FUZZTIME    ?= 5s
BENCHTIME   ?= 1s
TESTTIMEOUT ?= 10m
RUN         ?=

E2E      := internal/e2e
ISSUER   := $(E2E)/issuer
SHOTS    := $(E2E)/screenshots
SPATEST  := internal/spatest
FRONTEND := $(SPATEST)/frontend

# Directories with a package-lock.json, and what npm notes in each when it has
# installed what that says.
NPM       := $(ISSUER) $(FRONTEND) internal/proxytest/signalr
INSTALLED := $(NPM:%=%/node_modules/.package-lock.json)

# The modules of the workspace, as directories relative to this one, and the
# packages that need neither browser nor issuer. Both go into a variable first:
# a failure in $(...) on a command's own line would be overlooked by the shell.
MODULES = modules=$$(go list -m -f '{{.Dir}}' | sed "s|^$$PWD/||; s|^$$PWD$$|.|")
UNIT    = packages=$$(go list work); packages=$$(grep -vE '/($(E2E)|$(SPATEST))$$' <<<"$$packages")

.PHONY: help test lint workspace fmt vet staticcheck tidy vuln test-unit rounds fuzz e2e bench figures screenshots setup clean

help: ## this list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([^:]*):.*## /  \1\t/' | expand -t 16

test: ## install what is missing, then everything, as CI runs it
	@$(MAKE) setup
	$(MAKE) lint test-unit rounds fuzz e2e
	@echo "== test: all done"

lint: workspace fmt vet staticcheck tidy vuln ## gofmt, vet, staticcheck, go mod tidy -diff, govulncheck

# A module that go.work does not name would be skipped by all that follows.
workspace:
	@echo "== go.work names every module"
	$(MODULES)
	there=$$(git ls-files --cached --others --exclude-standard -- go.mod '*/go.mod' | grep -v '/testdata/' | xargs -n1 dirname | sort)
	diff <(echo "$$there") <(sort <<<"$$modules") || { echo "go.work lacks the modules marked <"; exit 1; }

# Files that git ignores (node_modules, say) are nobody's business here.
fmt:
	@echo "== gofmt"
	files=$$(git ls-files --cached --others --exclude-standard -- '*.go')
	existing=$$(for f in $$files; do [ ! -e "$$f" ] || echo "$$f"; done)
	bad=$$(gofmt -l $$existing)
	if [ -n "$$bad" ]; then
		echo "not formatted:"; echo "$$bad"; exit 1
	fi

vet:
	@echo "== go vet, all modules"
	go vet work

# ST1005 is about capitals: our test suites' errors begin with a method's name.
staticcheck:
	@$(MODULES)
	for dir in $$modules; do
		echo "== staticcheck: $$dir"
		(cd "$$dir" && go run $(STATICCHECK) -checks inherit,-ST1005 ./...)
	done

tidy:
	@$(MODULES)
	for dir in $$modules; do
		echo "== go mod tidy -diff: $$dir"
		(cd "$$dir" && go mod tidy -diff)
	done

# The database is a public service. Where it can't be reached the check can't
# be made, and says so.
vuln:
	@if ! command -v curl >/dev/null || ! curl -fsS --max-time 15 -o /dev/null $(VULNDB)/index/db.json 2>/dev/null; then
		echo "== govulncheck: NOT RUN, since $(VULNDB) can't be reached from here"
		exit 0
	fi
	$(MODULES)
	for dir in $$modules; do
		echo "== govulncheck: $$dir"
		(cd "$$dir" && go run $(GOVULNCHECK) -db $(VULNDB) ./...)
	done

test-unit: $(INSTALLED) ## go test -race of every package but the browser tests
	@echo "== go test -race, all modules"
	$(UNIT)
	go test -race -timeout $(TESTTIMEOUT) $(if $(RUN),-run '$(RUN)') $$packages

# The simulator and the races of ends look for rare sequences: here, without the
# race detector, they have all their seeds and rounds.
rounds: ## the simulator's seeds and its planted bugs, and 10,000 ended sessions per store
	@echo "== all seeds and rounds"
	go test -timeout $(TESTTIMEOUT) -v -run 'Seed|Planted|EndRace' ./internal/sim ./internal/endrace ./store/redisstore ./internal/sqltest |
		grep -vE '^=== |valkey|PAUSE'

fuzz: ## every Fuzz target, FUZZTIME (5s) each
	@$(UNIT)
	found=0
	for pkg in $$packages; do
		# -list builds the test binary; a package that does not compile fails here.
		targets=$$(go test -list '^Fuzz' "$$pkg")
		targets=$$(grep '^Fuzz' <<<"$$targets" || true)
		for target in $$targets; do
			echo "== fuzz: $$pkg $$target"
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$pkg"
			found=$$((found + 1))
		done
	done
	echo "== fuzz: $$found targets"

e2e: $(INSTALLED) ## gateway, issuer, Vite and browser together
	@echo "== end to end: oidc-provider, examples/gateway, Chromium"
	rm -rf $(SHOTS)
	status=0
	(cd $(E2E) && E2E_RACE=1 go test -count=1 -timeout 15m -v $(if $(RUN),-run '$(RUN)') ./...) || status=$$?
	echo "== end to end: Vite, package spa, Chromium"
	(cd $(SPATEST) && go test -race -count=1 -timeout 10m -v $(if $(RUN),-run '$(RUN)') ./...) || status=$$?
	echo "== screenshots for people: $$PWD/$(SHOTS)"
	exit $$status

screenshots: e2e ## the browser tests, then a list of the pictures they took
	@ls -1 $(SHOTS)/*.png

bench: ## all benchmarks
	@$(UNIT)
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $$packages

figures: ## measure again what README.md says, and write it there
	go run ./internal/bench/table -write README.md

# npm's own record of what it installed tells whether the lock file moved on.
$(INSTALLED): %/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@echo "== npm ci: $*"
	cd $*
	npm ci --no-audit --no-fund
	touch node_modules/.package-lock.json

setup: ## install what the tests need and this machine lacks (Debian packages, npm)
	@missing=()
	command -v gcc >/dev/null || missing+=(gcc libc6-dev)
	command -v git >/dev/null || missing+=(git)
	command -v curl >/dev/null || missing+=(curl ca-certificates)
	command -v node >/dev/null || missing+=(nodejs)
	command -v npm >/dev/null || missing+=(npm)
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
		command -v google-chrome-stable >/dev/null || missing+=(chromium)
	command -v redis-server >/dev/null || missing+=(redis-server)
	command -v valkey-server >/dev/null || missing+=(valkey-server)
	command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || missing+=(mariadb-server-core mariadb-client-core)
	command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || missing+=(postgresql)
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
	PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || missing+=(pgbouncer)
	PATH="$$PATH:/usr/sbin" command -v mariadbd >/dev/null || missing+=(mariadb-server-core mariadb-client-core)
	if [ $${#missing[@]} -gt 0 ]; then
		echo "== setup: installing $${missing[*]}"
		command -v apt-get >/dev/null || { echo "no apt-get here: please install $${missing[*]}" >&2; exit 1; }
		sudo=
		[ "$$(id -u)" = 0 ] || sudo=sudo
		$$sudo apt-get update
		# Debian 12 has Valkey among its backports only: those are added for
		# this one installation, from where the machine gets its other packages.
		apt=(apt-get)
		if [[ " $${missing[*]} " = *" valkey-server "* ]] && [ -z "$$(apt-cache madison valkey-server)" ]; then
			release=$$(. /etc/os-release && echo "$$VERSION_CODENAME")
			repo=$$(apt-get indextargets --format '$$(REPO_URI)' "Codename: $$release" 'Created-By: Packages' | sed -n 1p)
			sources=$$(mktemp)
			[ ! -e /etc/apt/sources.list ] || cat /etc/apt/sources.list >"$$sources"
			echo "deb $$repo $$release-backports main" >>"$$sources"
			chmod a+r "$$sources"
			apt+=(-o "Dir::Etc::SourceList=$$sources")
			$$sudo "$${apt[@]}" update
		fi
		$$sudo env DEBIAN_FRONTEND=noninteractive "$${apt[@]}" install -y --no-install-recommends "$${missing[@]}"
	fi
	# The issuer and Vite want Node 20; older Debians have less, but npm has it.
	if ! node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' && ! ls $(E2E)/.node/node_modules/node-linux-*/bin/node >/dev/null 2>&1; then
		case $$(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) echo "please install Node 20 or later" >&2; exit 1 ;; esac
		echo "== setup: node $$(node --version) is too old, fetching 22"
		npm install --prefix $(E2E)/.node --no-save --no-package-lock --no-audit --no-fund "node-linux-$$arch@22"
	fi
	$(MAKE) $(INSTALLED)
	echo "== setup: go $$(go env GOVERSION), node $$(node --version)"

clean: ## remove what the targets above left behind
	rm -rf $(SHOTS) $(NPM:%=%/node_modules) $(E2E)/.node
