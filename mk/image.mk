# make image [IMAGE_HUB=localhost/ambient] [IMAGE_TAG=version]   build/image/{ambient-agent,ztunnel}.tar: OCI archives, no Docker
# IMAGE_ROOT, IMAGE_BIN: a Debian root and the programs that were built in it. The default is the Debian 13 root of `make debian13`
# where that has been made (its OpenSSL is 3.5), else this machine.
IMAGE_HUB ?= localhost/ambient
IMAGE_TAG ?= $(VERSION)
IMAGE_DEBIAN13 := $(if $(wildcard .cache/trixie/.ready),$(wildcard $(O)/trixie/release/bin/ambient-agent))
IMAGE_ROOT ?= $(if $(IMAGE_DEBIAN13),.cache/trixie,/)
IMAGE_BIN ?= $(if $(IMAGE_DEBIAN13),$(O)/trixie/release/bin,$(O)/release/bin)
.PHONY: image
image: $(if $(filter $(O)/release/bin,$(IMAGE_BIN)),all)
	@$(PYTHON) install/image/build.py --bin $(IMAGE_BIN) --root $(IMAGE_ROOT) --hub $(IMAGE_HUB) --tag $(IMAGE_TAG) \
		--version $(VERSION) --out $(O)/image
