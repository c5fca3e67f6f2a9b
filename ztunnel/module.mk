ZT_MESH := ztunnel/mesh/model.c ztunnel/mesh/mesh.c ztunnel/mesh/decide.c ztunnel/mesh/pick.c \
	ztunnel/mesh/rbac.c ztunnel/mesh/local_state.c ztunnel/mesh/local_policy.c
ZT_OBSERVE := ztunnel/observe/conn_info.c ztunnel/observe/metrics.c ztunnel/observe/metrics_text.c \
	ztunnel/observe/ring.c ztunnel/observe/log_line.c ztunnel/observe/access_log.c
ZT_DATA := $(wildcard ztunnel/data/*.c)
ZT_CONTROL := ztunnel/control/ca_dev.c ztunnel/control/certs.c ztunnel/control/pods.c \
	ztunnel/control/zds_client.c ztunnel/control/state_file.c ztunnel/control/dump.c \
	ztunnel/control/admin.c

PROGS += ztunnel
SRCS_ztunnel := ztunnel/main.c ztunnel/config.c ztunnel/isolate.c $(ZT_MESH) $(ZT_OBSERVE) \
	$(ZT_CONTROL) $(ZT_DATA)
PKGS_ztunnel := openssl libnghttp2 yaml-0.1 libprotobuf-c libcap-ng libseccomp
# jemalloc in release only: sanitizers bring their own allocator (style 4.6)
ifeq ($(VARIANT),release)
PKGS_ztunnel += jemalloc
LDFLAGS_ztunnel_release := -static-libgcc # the profiler of jemalloc unwinds; one library less
$(B)/ztunnel/main.o: CFLAGS_ALL += -DAMBIENT_JEMALLOC=1
endif

ZT_TESTS_MESH := mesh decide rbac local_state
ZT_TESTS_OBSERVE := metrics access_log
UNIT_TESTS += $(ZT_TESTS_MESH) $(ZT_TESTS_OBSERVE) ztunnel_config certs certs_retry
$(foreach t,$(ZT_TESTS_MESH),$(eval OBJS_test_$(t) := $(ZT_MESH)))
$(foreach t,$(ZT_TESTS_OBSERVE),$(eval OBJS_test_$(t) := $(ZT_MESH) $(ZT_OBSERVE)))
$(foreach t,$(ZT_TESTS_MESH) $(ZT_TESTS_OBSERVE),$(eval PKGS_test_$(t) := yaml-0.1))
OBJS_test_ztunnel_config := ztunnel/config.c
OBJS_test_certs := ztunnel/control/ca_dev.c ztunnel/control/certs.c
PKGS_test_certs := openssl
OBJS_test_certs_retry := ztunnel/control/certs.c
TSAN_TESTS += $(ZT_TESTS_OBSERVE)

FUZZERS += yaml_state authority
$(foreach f,yaml_state authority,$(eval OBJS_fuzz_$(f) := $(ZT_MESH)))
$(foreach f,yaml_state authority,$(eval PKGS_fuzz_$(f) := yaml-0.1))

UNIT_TESTS += pool relay hsess_io
OBJS_test_relay := ztunnel/data/relay.c ztunnel/data/queue.c ztunnel/data/leg.c \
	ztunnel/data/reset.c
OBJS_test_hsess_io := ztunnel/data/hsess_io.c ztunnel/data/leg.c ztunnel/data/reset.c
OBJS_test_pool := ztunnel/data/pool.c $(ZT_MESH)
PKGS_test_pool := yaml-0.1
