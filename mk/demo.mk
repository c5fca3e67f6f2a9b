# make demo   as root: installs what is missing, builds, plays tests/demo, cleans up. Logs: build/demo
DEMO_OUT ?= $(O)/demo
.PHONY: demo demo-run
demo:
	@$(MAKE) deps-demo
	@$(MAKE) -j$(shell nproc) VARIANT=release all
	@$(MAKE) demo-run
demo-run:
	@/usr/bin/python3 tests/demo/demo.py --bin $(O)/release/bin --out $(DEMO_OUT)
