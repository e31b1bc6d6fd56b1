# evenkeel: everything that a person or a machine does with this tree.
#
#   make demo      watch a three-node cluster lose its active server (about 30 s)
#   make test      everything that must hold before a change goes in
#   make sim       simulated clusters in which everything goes wrong: SEEDS=0..20000
#   make bench     the table of faults and figures, on this machine
#   make matrix    every fault and every two of them: 90 minutes, docs/matrix.md
#   make compare   the same for keepalived, ucarp and Pacemaker beside it
#   make fuzz      hostile input for every reader, MINUTES=10 each
#   make setup     only install what the other targets need
#   make release   the binary for real servers
#   make install   puts it, its manual pages and its systemd unit into place
#
# What builds begins with the set-up script, which says nothing when nothing is
# missing. Variables can be given on the command line: make install PREFIX=/usr

SHELL = /bin/sh

# Rust's installer puts cargo where a fresh shell may not look yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO   = cargo
INSTALL = install
DEMO    =
BENCH   =
MATRIX  =
COMPARE =
MINUTES = 10
TARGETS =
# Which seeds `make sim` plays, and on how many processors.
SEEDS   = 0..1000
JOBS    = 2

DESTDIR =
PREFIX  = /usr/local
SBINDIR = $(PREFIX)/sbin
MANDIR  = $(PREFIX)/share/man
UNITDIR = /etc/systemd/system

# Where cargo builds, unless the environment says otherwise.
TARGET  = $${CARGO_TARGET_DIR:-target}

.PHONY: all setup setup-peers build demo test format lint unit-test doc-test sim bench matrix compare \
	fuzz release install uninstall

all: build

setup:
	@./scripts/setup.sh

# The other failover software that `compare` measures; it is not started.
setup-peers:
	@./scripts/setup.sh --peers

build: setup
	$(CARGO) build -p evenkeel

# DEMO="--plain" for no colours.
demo: build
	@"$(TARGET)/debug/evenkeel" demo $(DEMO)

# In this order, so that the cheap complaints come first. Each recipe line is a
# make of its own, so that `make -j` cannot mix them up.
test: setup
	@$(MAKE) --no-print-directory format
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit-test
	@$(MAKE) --no-print-directory doc-test

format:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# nextest gives every test a process of its own and is used where it is installed;
# nothing is missed without it.
unit-test:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo "$(CARGO) nextest run --workspace"; \
		$(CARGO) nextest run --workspace; \
	else \
		echo "$(CARGO) test --workspace --lib --bins --tests"; \
		$(CARGO) test --workspace --lib --bins --tests; \
	fi

doc-test:
	$(CARGO) test --doc --workspace

# A failure says its seed and the one command that repeats it.
sim: setup
	$(CARGO) run --release -p evenkeel-sim -- whole --seeds $(SEEDS) --jobs $(JOBS) \
		--commit "$$(git rev-parse HEAD 2>/dev/null || echo unknown)"

# Takes long: 20 runs of each fault in two profiles. BENCH="--runs 3 --rows power-cut"
# for a look.
bench: build
	@"$(TARGET)/debug/evenkeel" lab bench $(BENCH)

# MATRIX="--minutes 10 --markdown matrix.md" for a look; a release build, for figures.
matrix: release
	@"$(TARGET)/release/evenkeel" lab matrix $(MATRIX)

# Takes hours with all peers and rows (docs/compare.md). For a look:
# COMPARE="--rounds 2 --peers evenkeel,keepalived-100ms --rows power-cut,daemon-frozen"
compare: setup-peers release
	@"$(TARGET)/release/evenkeel" lab compare $(COMPARE)

# Takes a C++ compiler, and MINUTES for each of some thirty targets, unless TARGETS names a few.
# `make test` has a short run of all of them.
fuzz: setup
	./scripts/fuzz.sh $(MINUTES) $(TARGETS)

release: setup
	$(CARGO) build --release -p evenkeel

# Builds nothing, so that root needs no compiler: `make release` first, as yourself.
# Starts and enables nothing either: docs/manual.md says what comes next.
install:
	@test -x "$(TARGET)/release/evenkeel" || { \
		echo "there is no release binary: run make release first, without root" >&2; exit 1; }
	$(INSTALL) -d "$(DESTDIR)$(SBINDIR)" "$(DESTDIR)$(MANDIR)/man5" \
		"$(DESTDIR)$(MANDIR)/man8" "$(DESTDIR)$(UNITDIR)"
	$(INSTALL) -m 0755 "$(TARGET)/release/evenkeel" "$(DESTDIR)$(SBINDIR)/evenkeel"
	$(INSTALL) -m 0644 man/evenkeel.8 "$(DESTDIR)$(MANDIR)/man8/evenkeel.8"
	$(INSTALL) -m 0644 man/evenkeel.toml.5 "$(DESTDIR)$(MANDIR)/man5/evenkeel.toml.5"
	sed 's|/usr/local/sbin|$(SBINDIR)|g' packaging/evenkeel.service \
		> "$(DESTDIR)$(UNITDIR)/evenkeel.service"
	chmod 0644 "$(DESTDIR)$(UNITDIR)/evenkeel.service"

# What `install` put there. What a daemon left in the kernel is another matter:
# docs/manual.md, "Uninstalling".
uninstall:
	rm -f "$(DESTDIR)$(SBINDIR)/evenkeel" "$(DESTDIR)$(MANDIR)/man8/evenkeel.8" \
		"$(DESTDIR)$(MANDIR)/man5/evenkeel.toml.5" "$(DESTDIR)$(UNITDIR)/evenkeel.service"
