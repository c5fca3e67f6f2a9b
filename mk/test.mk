# make test   installs what is missing, builds, runs everything; the last line is `N passed, N failed`
# make check  the checks only;  make unit  unit tests (release);  make system  system tests (release)
# ONLY=regex  runs only the test programs whose name matches (names are in build/test.plan)
TEST_JOBS ?= 2
SYSTEM_TESTS := $(patsubst tests/system/test_%.py,%,$(wildcard tests/system/test_*.py))
# Run with the release binaries only: they start containers or a whole system, where sanitizers add nothing but time.
SYSTEM_RELEASE_ONLY += charts image install_cni istiod containerd install_containerd install_systemd demo systemd systemd_upgrade
SYSTEM_RELEASE_ONLY += systemd_reboot deb
SYSTEM_LIMIT_S ?= 600
# Some bring a cluster up first.
INTEROP_LIMIT_S ?= 1800
# Beside stock programs, which `make stock` builds (tests/interop/istio); what is not there is skipped by name.
INTEROP_TESTS := $(patsubst tests/interop/test_%.py,%,$(wildcard tests/interop/test_*.py))
# System tests that drive ztunnel's threads: its ThreadSanitizer build goes through them too.
SYSTEM_TSAN += tunnel ztunnel hostile zds network dns ondemand
# Unit tests that use threads; a module.mk adds its own.
TSAN_TESTS += event
TSAN_RUN := $(sort $(filter $(TSAN_TESTS),$(UNIT_TESTS)))
PYTHON := /usr/bin/python3

define NL


endef
plan-lines = $(subst $(NL) ,$(NL),$(foreach t,$(1),$(call $(2),$(t))$(NL)))
plan-unit-release = unit/$(1) 120 par $(O)/release/tests/unit/test_$(1)
plan-unit-asan = unit-asan/$(1) 300 par $(O)/asan/tests/unit/test_$(1)
plan-unit-tsan = unit-tsan/$(1) 300 par $(O)/tsan/tests/unit/test_$(1)
plan-fuzz = fuzz-seeds/$(1) 300 par $(O)/asan/tests/fuzz/fuzz_$(1) tests/fuzz/seeds/$(1)
plan-system = system/$(1) $(SYSTEM_LIMIT_S) beside $(PYTHON) tests/system/test_$(1).py --bin $(O)/release/bin
plan-system-asan = system-asan/$(1) $(SYSTEM_LIMIT_S) beside $(PYTHON) tests/system/test_$(1).py --bin $(O)/asan/bin
plan-system-tsan = system-tsan/$(1) $(SYSTEM_LIMIT_S) beside $(PYTHON) tests/system/test_$(1).py --bin $(O)/tsan/bin
plan-interop = interop/$(1) $(INTEROP_LIMIT_S) alone $(PYTHON) tests/interop/test_$(1).py --bin $(O)/release/bin

define UNIT_PLAN
$(call plan-lines,$(UNIT_TESTS),plan-unit-release)
endef
define SYSTEM_PLAN
$(call plan-lines,$(SYSTEM_TESTS),plan-system)
$(call plan-lines,$(INTEROP_TESTS),plan-interop)
endef
define TEST_PLAN
$(CHECK_PLAN)
$(UNIT_PLAN)
$(call plan-lines,$(UNIT_TESTS),plan-unit-asan)
$(call plan-lines,$(FUZZERS),plan-fuzz)
$(call plan-lines,$(TSAN_RUN),plan-unit-tsan)
$(SYSTEM_PLAN)
$(call plan-lines,$(filter-out $(SYSTEM_RELEASE_ONLY),$(SYSTEM_TESTS)),plan-system-asan)
$(call plan-lines,$(filter $(SYSTEM_TSAN),$(SYSTEM_TESTS)),plan-system-tsan)
conformance 3000 alone $(CONFORMANCE)
conformance-istiod 3000 alone $(CONFORMANCE) --istiod
conformance-networks 1500 alone $(CONFORMANCE) --networks
$(if $(DEBIAN13_IN_TEST),debian13 3000 beside tests/debian13.sh)
endef

# Debian 13 is tried in CI, and wherever its root has been made before by `make debian13`.
DEBIAN13_IN_TEST := $(if $(filter true,$(CI)),1,$(wildcard .cache/trixie/.ready))

SUBMAKE = $(MAKE) $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))
RUNNER = tests/run --jobs $(TEST_JOBS) --logs $(O)/test-logs --skips tests/skips.allowed $(if $(ONLY),--only '$(ONLY)')

.PHONY: stock
stock:
	@tests/interop/envoy.sh .cache/envoy/envoy || echo "stock: no Envoy; tests that need it are skipped"
	@tests/interop/istio/build.sh .cache/istio/bin
	@$(PYTHON) tests/cluster/build.py xds-filter

.PHONY: test test-build test-run check unit system tsan-units plan
test:
	@$(MAKE) deps
	@$(if $(filter true,$(CI)),$(MAKE) -k kube stock helm || echo "not all peers were built; tests that need them are skipped",:)
	@$(MAKE) test-build
	@$(MAKE) test-run
test-build:
	@$(SUBMAKE) VARIANT=release all units
	@$(SUBMAKE) VARIANT=asan all units fuzzers
	@$(SUBMAKE) VARIANT=tsan tsan-units
tsan-units: $(TSAN_RUN:%=$(B)/tests/unit/test_%) $(if $(filter ztunnel,$(PROGS)),$(B)/bin/ztunnel)
test-run:
	@mkdir -p $(O)
	@:$(file >$(O)/test.plan,$(TEST_PLAN))
	@$(RUNNER) $(O)/test.plan
check:
	@$(MAKE) deps-check
	@$(SUBMAKE) VARIANT=release all
	@$(MAKE) check-run
.PHONY: check-run unit-run system-run
check-run:
	@:$(file >$(O)/check.plan,$(CHECK_PLAN))
	@$(RUNNER) $(O)/check.plan
unit:
	@$(SUBMAKE) VARIANT=release units
	@$(MAKE) unit-run
unit-run:
	@:$(file >$(O)/unit.plan,$(UNIT_PLAN))
	@$(RUNNER) $(O)/unit.plan
system:
	@$(SUBMAKE) VARIANT=release all
	@$(MAKE) system-run
system-run:
	@:$(file >$(O)/system.plan,$(SYSTEM_PLAN))
	@$(RUNNER) $(O)/system.plan

# Real fuzzing, where clang has libFuzzer. What it finds stays in build/fuzz-corpus; a crash becomes a seed by hand.
FUZZ_SECONDS ?= 20
.PHONY: fuzz fuzz-run
fuzz:
	@$(SUBMAKE) VARIANT=fuzz CC=clang fuzzers
	@$(MAKE) VARIANT=fuzz CC=clang fuzz-run
fuzz-run:
	@mkdir -p $(O)/fuzz-crashes
	@failed=0; for t in $(FUZZERS); do mkdir -p $(O)/fuzz-corpus/$$t; \
		if $(B)/tests/fuzz/fuzz_$$t -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
			-artifact_prefix=$(O)/fuzz-crashes/$$t- $(O)/fuzz-corpus/$$t \
			$$(test -d tests/fuzz/seeds/$$t && echo tests/fuzz/seeds/$$t) >$(O)/fuzz-crashes/$$t.log 2>&1; then \
			echo "ok   $$t: $$(sed -n 's/^stat::number_of_executed_units: *//p' $(O)/fuzz-crashes/$$t.log) runs"; \
		else failed=1; echo "FAIL $$t: see $(O)/fuzz-crashes/$$t.log"; fi; done; exit $$failed

# What to look at in a review: sizes of the programs, lines per room, the longest files and functions.
.PHONY: stats
stats: all
	@$(PYTHON) tests/stats.py $(B)/bin $(PROGS)

# Turns decisions round, one at a time, and expects the unit tests to notice.
.PHONY: mutants
mutants:
	@$(PYTHON) tests/mutants.py
