# Libraries come through pkg-config only, looked up once. `make deps` installs the Debian packages.
PKGCONF ?= pkg-config
PKG_NAMES := libnftnl libmnl libnl-3.0 libnl-route-3.0 openssl libnghttp2 yaml-0.1 libprotobuf-c \
	libcap-ng libseccomp jemalloc cmocka

# Oldest versions that the code is written for (Debian 12), and the packages that bring them.
PKG_MIN_libnftnl := 1.2.4
PKG_DEB_libnftnl := libnftnl-dev
PKG_MIN_libmnl := 1.0.4
PKG_DEB_libmnl := libmnl-dev
PKG_MIN_libnl-3.0 := 3.7.0
PKG_DEB_libnl-3.0 := libnl-3-dev
PKG_MIN_libnl-route-3.0 := 3.7.0
PKG_DEB_libnl-route-3.0 := libnl-route-3-dev
PKG_MIN_openssl := 3.0.0
PKG_DEB_openssl := libssl-dev
PKG_MIN_libnghttp2 := 1.52.0
PKG_DEB_libnghttp2 := libnghttp2-dev
PKG_MIN_yaml-0.1 := 0.2.5
PKG_DEB_yaml-0.1 := libyaml-dev
PKG_MIN_libprotobuf-c := 1.4.1
PKG_DEB_libprotobuf-c := libprotobuf-c-dev
PKG_MIN_libcap-ng := 0.8.3
PKG_DEB_libcap-ng := libcap-ng-dev
PKG_MIN_libseccomp := 2.5.4
PKG_DEB_libseccomp := libseccomp-dev
PKG_MIN_jemalloc := 5.3.0
PKG_DEB_jemalloc := libjemalloc-dev
PKG_MIN_cmocka := 1.1.5
PKG_DEB_cmocka := libcmocka-dev

pkg-cflags = $(shell $(PKGCONF) --cflags $(1) 2>/dev/null)
pkg-libs = $(shell $(PKGCONF) --libs $(1) 2>/dev/null)
$(foreach p,$(PKG_NAMES),$(eval PKG_CFLAGS_$(p) := $(call pkg-cflags,$(p))))
$(foreach p,$(PKG_NAMES),$(eval PKG_LIBS_$(p) := $(call pkg-libs,$(p))))

# The allocator goes into ztunnel's file: the shared one would bring the C++ runtime along.
PKG_LIBS_jemalloc := -l:libjemalloc.a -lm

# Goals that compile nothing work without the libraries.
PKG_FREE_GOALS := deps deps-build deps-check deps-lab deps-test deps-demo clean test check demo demo-run stats-source debian13 help helm manifests install-built uninstall deb-built cluster cluster-down conformance conformance-istiod deps-cluster
ifneq ($(or $(filter-out $(PKG_FREE_GOALS),$(MAKECMDGOALS)),$(if $(MAKECMDGOALS),,all)),)
pkg-check = $(shell $(PKGCONF) --atleast-version=$(PKG_MIN_$(1)) $(1) 2>/dev/null || \
	echo '$(1)>=$(PKG_MIN_$(1)) (Debian package $(PKG_DEB_$(1)));')
PKG_MISSING := $(strip $(foreach p,$(PKG_NAMES),$(call pkg-check,$(p))))
ifneq ($(PKG_MISSING),)
$(error missing libraries: $(PKG_MISSING) as root run `make deps-build`, or install them)
endif
endif

# Debian packages, by what needs them. The names are the same in Debian 12 and 13.
BUILD_DEPS := gcc make pkg-config binutils libc6-dev libnftnl-dev libmnl-dev libnl-3-dev \
	libnl-route-3-dev libssl-dev libnghttp2-dev libyaml-dev libprotobuf-c-dev \
	protobuf-c-compiler libcap-ng-dev libseccomp-dev \
	libjemalloc-dev libcmocka-dev libjsmn-dev
CHECK_DEPS := python3 clang clang-format clang-tidy libclang-rt-dev mandoc
# What the system tests need that make their own namespaces and start nothing but our programs.
LAB_DEPS := systemd python3-protobuf python3-yaml python3-cryptography python3-h2 protobuf-compiler nftables \
	iproute2 iputils-ping procps curl openssl strace util-linux iptables ipset
TEST_DEPS := $(LAB_DEPS) python3-grpcio python3-protobuf python3-yaml python3-cryptography python3-h2 \
	protobuf-compiler nftables iproute2 iputils-ping procps tcpdump curl openssl iperf3 strace \
	nghttp2-client util-linux debootstrap systemd-container ca-certificates git dpkg-dev lintian prometheus
DEMO_DEPS := containerd runc containernetworking-plugins busybox-static tcpdump iproute2 nftables \
	python3 python3-grpcio python3-protobuf python3-yaml python3-cryptography protobuf-compiler
# A cluster of Kubernetes from source; venv is for Go, where the machine has none.
CLUSTER_DEPS := $(DEMO_DEPS) mount util-linux openssl python3-venv

.PHONY: deps-cluster
deps-cluster:
	@sh mk/deps.sh $(sort $(BUILD_DEPS) $(CLUSTER_DEPS))

.PHONY: deps deps-build deps-check deps-lab deps-test deps-demo
# Everything that `make`, `make check`, `make test` and `make demo` need.
deps:
	@sh mk/deps.sh $(sort $(BUILD_DEPS) $(CHECK_DEPS) $(TEST_DEPS) $(DEMO_DEPS) $(CLUSTER_DEPS))
deps-build:
	@sh mk/deps.sh $(sort $(BUILD_DEPS))
deps-check:
	@sh mk/deps.sh $(sort $(BUILD_DEPS) $(CHECK_DEPS))
deps-lab:
	@sh mk/deps.sh $(sort $(BUILD_DEPS) $(CHECK_DEPS) $(LAB_DEPS))
deps-test: deps
deps-demo:
	@sh mk/deps.sh $(sort $(BUILD_DEPS) $(DEMO_DEPS))
