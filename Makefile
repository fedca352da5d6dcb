# Only a Rust toolchain and (for the Postgres server programs) apt are assumed. `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# One set of features and one profile for everything that is checked: each library is compiled once, and the binary that
# the crash tests kill has its fault points. Release builds have none. The client has all its drivers, here as in its tests.
CHECKED := --locked --workspace --features hapax/fault-points,hapax-client/diesel-async,hapax-client/sqlx

# Binaries are built in one go with the tests that want them: a build without tests asks less of some libraries, which
# would then all be compiled twice, and whatever stands on them.

# In CI nothing may stop at the first failure (.ci/run says --keep-going, too).
NEXTEST_PROFILE := $(if $(CI),ci,default)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | while IFS='|' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: postgres ## see it all on this machine: a private Postgres, a sample shop, a relay, a mail catcher
	cargo run --release --locked -p hapax -- demo

.PHONY: demo-chaos
demo-chaos: postgres ## the same, with the relay killed again and again
	cargo run --release --locked -p hapax -- demo --chaos

.PHONY: build
build: ## the binary: target/release/hapax
	cargo build --release --locked -p hapax

.PHONY: test
test: suites doctests ## every test

.PHONY: suites
suites: postgres test-servers
	cargo build $(CHECKED) --lib --bins --tests
	if cargo nextest --version >/dev/null 2>&1; then \
	    cargo nextest run $(CHECKED) --profile $(NEXTEST_PROFILE); \
	else \
	    cargo test $(CHECKED) --lib --bins --tests $(if $(CI),--no-fail-fast); \
	fi

.PHONY: storm
storm: postgres test-servers ## relays killed, suspended, cut off, at random: HAPAX_STORM_DELIVERIES, _KILLS, _SECONDS, _RELAYS, HAPAX_SEED
	cargo build --release --locked -p hapax
	HAPAX_BIN=$${HAPAX_BIN:-$(CURDIR)/target/release/hapax} cargo test $(CHECKED) --test storm -- --nocapture

.PHONY: soak
soak: postgres ## a steady load with trouble all along (30 minutes): memory, descriptors, log, books; HAPAX_SOAK_SECONDS, _RATE, HAPAX_SEED
	cargo build --release --locked -p hapax
	HAPAX_BIN=$${HAPAX_BIN:-$(CURDIR)/target/release/hapax} HAPAX_SOAK_SECONDS=$${HAPAX_SOAK_SECONDS:-1800} \
	    cargo test $(CHECKED) --test soak -- --nocapture

.PHONY: steady
steady: postgres ## half a year with retention, made short (20 minutes), without and with an old snapshot: sizes, speed; HAPAX_STEADY_SECONDS, _RATE
	cargo build --release --locked -p hapax
	HAPAX_BIN=$${HAPAX_BIN:-$(CURDIR)/target/release/hapax} HAPAX_STEADY_SECONDS=$${HAPAX_STEADY_SECONDS:-1200} \
	    cargo test $(CHECKED) --test steady -- --nocapture

.PHONY: restarts
restarts: postgres ## a relay started and ended, or killed, a thousand times while mail flows (minutes): HAPAX_RESTARTS, HAPAX_SEED
	cargo build $(CHECKED) --bins --test lifecycle
	HAPAX_RESTARTS=$${HAPAX_RESTARTS:-1000} cargo test $(CHECKED) --test lifecycle -- --nocapture again_and_again

HAPAX_HISTORY_FINISHED ?= 10000000
HAPAX_HISTORY_PENDING ?= 1000000

.PHONY: history
history: postgres ## buffers of every statement beside ten million finished and a million pending (a quarter of an hour, 12 GB): HAPAX_HISTORY_FINISHED, _PENDING
	cargo build $(CHECKED) --bins --test history
	HAPAX_HISTORY_FINISHED=$(HAPAX_HISTORY_FINISHED) HAPAX_HISTORY_PENDING=$(HAPAX_HISTORY_PENDING) \
	    cargo test $(CHECKED) --test history -- --nocapture

BENCH_RUNS ?= 5
HAPAX_BENCH := target/release/hapax bench
SMTP_SOURCE = $(firstword $(wildcard /usr/sbin/smtp-source /usr/local/sbin/smtp-source))

.PHONY: bench
bench: postgres ## how fast it is on this machine and what it costs (a quarter of an hour): BENCH_RUNS (5)
	cargo build --release --locked -p hapax
	$(HAPAX_BENCH) drain --runs $(BENCH_RUNS) $(if $(SMTP_SOURCE),--limit)
	$(HAPAX_BENCH) drain --runs $(BENCH_RUNS) --relays 4
	$(HAPAX_BENCH) latency --runs $(BENCH_RUNS)
	$(HAPAX_BENCH) enqueue --runs $(BENCH_RUNS)
	$(HAPAX_BENCH) mixed --runs $(BENCH_RUNS)
	$(HAPAX_BENCH) old-snapshot --runs $(BENCH_RUNS)
	$(HAPAX_BENCH) remote-link --runs $(BENCH_RUNS)

.PHONY: producer-cost
producer-cost: postgres ## what an application pays for an enqueue beside a bare INSERT, by pgbench (five minutes)
	cargo build --release --locked -p hapax
	tests/producers/cost

.PHONY: kill-test
kill-test: postgres ## 2,000 messages, five SIGKILLs: duplicated, never received, in doubt; HAPAX_KILL_RUNS (5)
	cargo build --release --locked -p hapax
	HAPAX_KILL_RUNS=$${HAPAX_KILL_RUNS:-5} HAPAX_BIN=$${HAPAX_BIN:-$(CURDIR)/target/release/hapax} cargo test $(CHECKED) --test kill_test -- --nocapture

.PHONY: previous
previous: postgres ## a rolling upgrade: relays of the last landing (HEAD~, or GENERATION=...) and of this one, together
	rm -rf target/previous-source && mkdir -p target/previous-source
	git archive $(or $(GENERATION),HEAD~) | tar -x -C target/previous-source
	cargo build --locked -p hapax --manifest-path target/previous-source/Cargo.toml --target-dir target/previous
	cargo build $(CHECKED) --bins --test generations
	HAPAX_PREVIOUS_BIN=$(CURDIR)/target/previous/debug/hapax \
	    cargo test $(CHECKED) --test generations -- --nocapture

.PHONY: postgres-matrix
postgres-matrix: postgres test-servers ## statements, contract, relays, kills, plan bounds against Postgres 16, 17 and 18, out of PyPI (12 GB free, half an hour each): MAJORS, HAPAX_MAJORS_TESTS
	tests/majors/run $(MAJORS)

.PHONY: pooled
pooled: postgres test-servers ## the suites of tests/tests with a real PgBouncer in transaction mode before every relay and command (an hour): SUITES
	tests/pooled/run $(SUITES)

.PHONY: microbench
microbench: ## the pure paths every message passes (rendering, line ends and dots, replies): microseconds each
	cargo bench --locked -p hapax-render --bench render
	cargo bench --locked -p hapax-mail --bench mail

.PHONY: freight
freight: postgres ## the relay's memory while 64 deliveries with 20 MB attached are in flight at once (minutes)
	cargo build $(CHECKED) --bins --test freight
	HAPAX_FREIGHT_DELIVERIES=64 HAPAX_FREIGHT_MB=20 cargo test $(CHECKED) --test freight -- --nocapture memory

.PHONY: manifests
manifests: ## write what is generated in deploy/: dashboard, plain manifests, the chart's copy of the alerts
	tests/operations/setup
	deploy/grafana/dashboard.py > deploy/grafana/hapax.json.new && mv deploy/grafana/hapax.json.new deploy/grafana/hapax.json
	deploy/kubernetes/generate.py

.PHONY: drill
drill: postgres test-servers ## alerts provoked for real under a real Prometheus, the runbook followed; a transcript (minutes)
	cargo build $(CHECKED) --bins --test drill
	HAPAX_DRILL=full cargo test $(CHECKED) --test drill -- --nocapture

.PHONY: container
container: ## the container image, built and tried without a registry of images; needs root and buildah
	cargo build --release --locked -p hapax
	tests/operations/container

.PHONY: render-bench
render-bench: ## microseconds for one message by MJML and by HTML, beside handlebars, mjml and nodemailer; needs Node 20
	tests/render-bench/run

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## the fuzz targets of the renderer under libFuzzer, FUZZ_SECONDS (60) each; needs cargo install cargo-fuzz --locked
	cd crates/render && for target in address header mime raw template; do \
	    mkdir -p fuzz/found/$$target && \
	    cargo fuzz run --sanitizer none $$target fuzz/found/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048 || exit 1; \
	done

DEB_HAPAX := $(or $(CARGO_TARGET_DIR),target)/release/hapax
DEB_MADE := deploy/debian/made

.PHONY: deb
deb: ## the Debian package, in target/deb, its debug symbols in one of their own; needs cargo install cargo-deb --locked
	cargo build --release --locked -p hapax
	rm -rf $(DEB_MADE) target/deb && mkdir -p $(DEB_MADE) target/deb
	$(DEB_HAPAX) man --dir $(DEB_MADE)/man
	$(DEB_HAPAX) completions bash > $(DEB_MADE)/hapax.bash
	$(DEB_HAPAX) completions zsh > $(DEB_MADE)/_hapax
	$(DEB_HAPAX) completions fish > $(DEB_MADE)/hapax.fish
	cargo deb --locked -p hapax --no-build --dbgsym --output target/deb/

.PHONY: deb-test
deb-test: ## lintian, then the package in a clean Debian (debootstrap) and its unit under a real systemd; as root, minutes
	tests/deb/run target/deb/*.deb

.PHONY: matrix
matrix: postgres ## the whole fault matrix, phase x fault x actor: 2,900 cells (make test plays a third of them)
	cargo build $(CHECKED) --bins --test fault_matrix
	HAPAX_MATRIX=full cargo test $(CHECKED) --test fault_matrix -- --nocapture --test-threads 2

.PHONY: doctests
doctests:
	cargo test $(CHECKED) --doc

.PHONY: model
model: ## every run of the protocol's model, with more faults than `make test` has time for (minutes, 4 GB)
	HAPAX_MODEL=long cargo test --release --locked -p hapax-core --test model -- --nocapture --test-threads 1

.PHONY: lint
lint: rules fmt clippy rustdoc ## formatting, clippy, documentation, the rules of the house

.PHONY: fmt
fmt:
	cargo fmt --all --check

.PHONY: clippy
clippy:
	cargo clippy $(CHECKED) --all-targets -- -D warnings

.PHONY: rustdoc
rustdoc:
	RUSTDOCFLAGS="-D warnings" cargo doc $(CHECKED) --no-deps

.PHONY: rules
rules: ## the rules no compiler checks: arrows between crates, licences, files, documents (seconds)
	status=0; \
	for check in .ci/arrows .ci/house .ci/docs .ci/licences; do \
	    $$check --self-test || status=1; \
	    $$check || status=1; \
	done; \
	for script in .ci/run .ci/postgres tests/majors/run tests/pooled/run; do bash -n $$script || status=1; done; \
	exit $$status

.PHONY: audit
audit: ## known vulnerabilities and deny.toml in full; needs cargo-deny and the network
	cargo deny --locked check

.PHONY: squawk
squawk: ## what would lock or rewrite a live table: the migrations by squawk, fetched from PyPI unless installed
	.ci/squawk

.PHONY: docs
docs: ## write the generated lists of ARCHITECTURE.md again
	.ci/docs --write

.PHONY: check
check: ## what CI runs
	.ci/run

.PHONY: postgres
postgres: # the server programs; installs them when root on Debian, else says what to type
	.ci/postgres

.PHONY: test-servers
test-servers: # what else the tests want (real mail servers); installs it when root on Debian, else says what to type
	if [ -x tests/setup ]; then tests/setup; fi
