# make bench: figures as ratios in one run (docs/performance.md). Needs root. SECS and MINUTE shorten it.
SECS ?= 3
MINUTE ?= 60
$(B)/tests/bench/meshload: $(B)/tests/bench/meshload.o $(B)/libmesh.a
	$(call say,LD,$@)$(CC) $(LDFLAGS_ALL) -o $@ $^

.PHONY: bench
bench: all $(B)/tests/bench/meshload
	/usr/bin/python3 tests/bench/cni_bench.py --bin $(B)/bin
	/usr/bin/python3 tests/bench/sandbox_bench.py --bin $(B)/bin
	/usr/bin/python3 tests/bench/bench.py --bin $(B)/bin --load $(B)/tests/bench/meshload --secs $(SECS) --minute $(MINUTE)

# The same with the agent and ztunnel of Debian 13 (OpenSSL 3.5), after `make debian13`.
.PHONY: bench13
bench13: all $(B)/tests/bench/meshload
	/usr/bin/python3 tests/bench/bench.py --bin $(O)/trixie/release/bin --root .cache/trixie \
		--load $(B)/tests/bench/meshload --secs $(SECS) --minute $(MINUTE)
