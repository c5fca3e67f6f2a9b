# Libraries come through pkg-config only, looked up once. `make deps` installs the Debian packages.
PKGCONF ?= pkg-config
PKG_NAMES := libnftnl libmnl libnl-3.0 libnl-route-3.0 openssl libnghttp2 yaml-0.1 libprotobuf-c \
	libmicrohttpd libsystemd libcap-ng libseccomp jemalloc cmocka
pkg-cflags = $(shell $(PKGCONF) --cflags $(1) 2>/dev/null)
pkg-libs = $(shell $(PKGCONF) --libs $(1) 2>/dev/null)
$(foreach p,$(PKG_NAMES),$(eval PKG_CFLAGS_$(p) := $(call pkg-cflags,$(p))))
$(foreach p,$(PKG_NAMES),$(eval PKG_LIBS_$(p) := $(call pkg-libs,$(p))))

BUILD_DEPS := gcc make pkg-config libc6-dev libnftnl-dev libmnl-dev libnl-3-dev libnl-route-3-dev \
	libssl-dev libnghttp2-dev libyaml-dev libprotobuf-c-dev protobuf-c-compiler \
	libmicrohttpd-dev libsystemd-dev libcap-ng-dev libseccomp-dev libjemalloc-dev libcmocka-dev \
	libjsmn-dev
