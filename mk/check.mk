# Checks of the tree and of what was built from it: small programs in tests/check/ that print TAP.
# Pure modules (docs/rules.md): no I/O, no clock, no random numbers. A header that says "Pure." adds its module.
PURE := $(filter-out lib/format/%_internal.c,$(wildcard lib/format/*.c)) $(wildcard lib/wire/zds.c lib/wire/credential.c lib/wire/spiffe.c lib/wire/grpc_frame.c) \
	$(wildcard ztunnel/mesh/*.c ztunnel/control/xds_wire.c ztunnel/dns/msg.c ztunnel/dns/answer.c ztunnel/dns/resolv_conf.c) $(wildcard node-agent/enrol/eligibility.c)
# Pure functions in files that are not.
PURE_FUNCTIONS := nft_parse_ifaces nft_branch_pick
HEADER_FLAGS := $(filter-out -Werror,$(BASE_CFLAGS)) -Werror $(sort $(OBJ_CFLAGS))

# What is shipped; other PROGS are tools of the tests.
PRODUCTS := ambient-cni ambient-agent ztunnel ambientctl
TEST_TOOLS := $(filter-out $(PRODUCTS),$(PROGS))

define CHECK_PLAN
check/runner 120 par tests/check/runner.py
check/format 120 par tests/check/format.py
check/headlines 60 par tests/check/headlines.py
check/includes 60 par tests/check/includes.py
check/limits 60 par tests/check/limits.py
check/conformance 60 par tests/check/conformance.py
check/stock_charts 60 par tests/check/stock_charts.py $(O)/release/bin
check/headers 300 par tests/check/headers.py $(HEADER_FLAGS)
check/clock 60 par tests/check/clock.py $(O)/release
check/banned 60 par tests/check/banned.py $(O)/release
check/purity 60 par tests/check/purity.py $(O)/release $(PURE) -- $(PURE_FUNCTIONS)
check/binaries 60 par tests/check/binaries.py $(O)/release/bin $(TEST_TOOLS)
check/units 60 par tests/check/units.py
check/manpages 60 par tests/check/manpages.py $(O)/release/bin $(PRODUCTS)
check/clang 900 par tests/check/clang.sh $(O)
endef

.PHONY: format tidy
# Lays out all C files. clang-format 14 decides; later versions differ in places.
format:
	@cf=$$(command -v clang-format-14 || command -v clang-format); \
	git ls-files -co --exclude-standard '*.c' '*.h' | xargs "$$cf" -i

# Opinions, not a gate: each finding is read by a person.
TIDY_SRCS ?= $(LIB_SRCS) $(sort $(foreach p,$(PROGS),$(SRCS_$(p))))
TIDY_CHECKS := -*,bugprone-*,cert-*,clang-analyzer-*,concurrency-*,performance-*,-bugprone-easily-swappable-parameters,-bugprone-reserved-identifier,-cert-dcl37-c,-cert-dcl51-cpp,-cert-err33-c,-bugprone-assignment-in-if-condition,-concurrency-mt-unsafe,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling
tidy: | $(GEN_H)
	@for f in $(TIDY_SRCS); do echo "  TIDY  $$f"; clang-tidy --quiet --checks='$(TIDY_CHECKS)' "$$f" -- \
		$(filter-out -W%,$(BASE_CFLAGS)) $(OBJ_CFLAGS) 2>/dev/null; done | tee $(O)/tidy.log
	@echo "$$(grep -c 'warning:' $(O)/tidy.log) findings in $(words $(TIDY_SRCS)) files"
