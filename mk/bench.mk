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
