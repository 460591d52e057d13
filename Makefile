# Sekisho. `make help` lists the targets; each may be called on a bare Debian 12 or 13, as root.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
export SEKISHO_LAB_STATE ?= /var/lib/sekisho-lab

.PHONY: help dev check lint types test test-lab test-spine test-time test-fresh demo lab-up lab-down lab-clean deb lock docs bench

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | sort | column -t -s "$$(printf '\t')"

dev: .venv/ready ## make .venv/ with the control side and the developers' tools

.venv/ready: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || vagrant/install --for dev
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "[dev] installing the locked packages"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@ln -sfn "$$($(BIN)/python -c 'import ansible_mitogen, pathlib; print(pathlib.Path(ansible_mitogen.__file__).parent / "plugins/strategy")')" .venv/mitogen
	@touch $@

# What a command needs from Debian: requirements/debian/COMMAND.txt
needs-%:
	@vagrant/install --for $*

lint: dev needs-lint ## ruff, import-linter, ansible-lint, shellcheck
	@$(BIN)/ruff check agent tests vagrant playbooks typings
	@$(BIN)/ruff format --check agent tests vagrant playbooks typings
	@said=$$($(BIN)/lint-imports --no-cache) || { echo "$$said"; exit 1; }
	@git ls-files -z | xargs -0 grep -lIE '^#!(/usr/bin/env (ba)?sh|/bin/(ba)?sh)' | xargs shellcheck --exclude=SC2016 # apt's and dpkg's formats
	@PATH="$$PWD/$(BIN):$$PATH" ANSIBLE_STRATEGY=linear $(BIN)/ansible-lint --offline -q playbooks

types: dev ## mypy, strict
	@$(BIN)/mypy

# Lint and types run beside the tests and print at their end. A file's tests stay in one process
# (loadfile): its scenes and built packages are made once.
define TESTS
@$(MAKE) --no-print-directory --output-sync=target --keep-going -j2 lint types & beside=$$!; \
  $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(1) tests; code=$$?; \
  wait $$beside && exit $$code
endef

check: dev needs-check ## lint, types and the tests without those marked slow; properties tried less often (about two minutes)
	$(call TESTS,-m "not slow" --hypothesis-profile=fast)

test: dev needs-check ## lint, types and every test that needs no lab, each property in full
	$(call TESTS)

PART ?= tests/vm
SPINE = tests/vm/test_attacks.py tests/vm/test_lab_leaves_nothing.py

test-lab: dev needs-test-lab deb ## bring up the lab and pass the tests on its machines (PART="tests/vm/test_attacks.py …": some)
	@$(BIN)/pytest --lab --capture=no $(PART) # its progress is the only one in half an hour

test-spine: ## of these, six attacks, the lock-out, and that nothing is left behind
	@$(MAKE) --no-print-directory test-lab PART="$(SPINE)"

test-time: dev needs-check ## on a quiet machine: no wrong packet at boot, reloads, new cards, full tables, under thousands a second (six minutes)
	@$(BIN)/pytest --quiet-machine tests/kernel/test_time_kernel.py

FRESH ?= "make dev" "make check" "make deb && apt-get install -qq --yes ./dist/{python3-sekisho,sekisho-agent,sekisho}_*.deb && sekisho --version && sekisho audit --help >/dev/null"
SUITE ?= trixie
test-fresh: needs-fresh ## as root: run commands, each from a clean clone in a fresh Debian root (SUITE=bookworm|trixie FRESH='"make dev" …')
	@tests/fresh-root $(SUITE) $(FRESH)

demo: dev needs-demo deb ## the whole story: build, provision, audit, six attacks
	@$(BIN)/python tests/vm/demo.py $(WORDS)

lab-up: dev needs-lab ## bring up the lab's machines (restored when a saved state is there)
	@vagrant/lab up

lab-down: ## end the lab: nothing of it stays
	@vagrant/lab down

lab-clean: lab-down ## forget the lab's box, disks and saved states as well
	@rm -rf "$$SEKISHO_LAB_STATE"

deb: dev needs-deb ## build the Debian packages of servers, control side and monitor into dist/
	@agent/build-deb

docs: dev ## write the generated pages again
	@$(BIN)/sekisho catalogue render --out docs/reference/traceability.md
	@$(BIN)/sekisho catalogue paths --out docs/reference/device-paths.md
	@$(BIN)/python -m sekisho.host.agent.table > docs/reference/metrics.md
	@for area in devices kernel; do \
	  $(BIN)/python -c "import sys; from sekisho.devices.modules import render; sys.stdout.write(render('$$area'))" \
	    > hardening/modprobe/60-sekisho-$$area.conf; done

bench: dev needs-bench ## the figures, as ratios in one run
	@missed=; for bench in tests/bench/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || missed+=" $$bench"; done; \
	  [ -z "$$missed" ] || { echo "not met, or not run:$$missed"; exit 1; }

lock: ## make the hash locks again (needs uv)
	@cd requirements && for set in control dev; do \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet --universal --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --python-version 3.11 $$set.in -o $$set.lock; done
