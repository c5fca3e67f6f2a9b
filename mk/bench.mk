# make bench: figures as ratios in one run (docs/performance.md). Needs root. SECS and MINUTE shorten it.
SECS ?= 3
MINUTE ?= 60
$(B)/tests/bench/meshload: $(B)/tests/bench/meshload.o $(B)/libmesh.a
	$(call say,LD,$@)$(CC) $(LDFLAGS_ALL) -o $@ $^

$(B)/tests/bench/dnsload: $(B)/tests/bench/dnsload.o
	$(call say,LD,$@)$(CC) $(LDFLAGS_ALL) -o $@ $^

.PHONY: bench
bench: all $(B)/tests/bench/meshload $(B)/tests/bench/dnsload
	/usr/bin/python3 tests/bench/cni_bench.py --bin $(B)/bin
	/usr/bin/python3 tests/bench/agent_bench.py --bin $(B)/bin
	/usr/bin/python3 tests/bench/sandbox_bench.py --bin $(B)/bin
	/usr/bin/python3 tests/bench/dns_bench.py --bin $(B)/bin --load $(B)/tests/bench/dnsload --secs $(SECS)
	/usr/bin/python3 tests/bench/xds_bench.py --bin $(B)/bin
	/usr/bin/python3 tests/bench/away_bench.py --bin $(B)/bin
	/usr/bin/python3 tests/bench/bench.py --bin $(B)/bin --load $(B)/tests/bench/meshload --secs $(SECS) --minute $(MINUTE)
	/usr/bin/python3 tests/bench/mesh_bench.py --bin $(B)/bin

# The same with the agent and ztunnel of Debian 13 (OpenSSL 3.5), after `make debian13`.
.PHONY: bench13
bench13: all $(B)/tests/bench/meshload
	/usr/bin/python3 tests/bench/bench.py --bin $(O)/trixie/release/bin --root .cache/trixie \
		--load $(B)/tests/bench/meshload --secs $(SECS) --minute $(MINUTE)
