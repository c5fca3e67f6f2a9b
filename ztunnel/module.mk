ZT_MESH := ztunnel/mesh/model.c ztunnel/mesh/mesh.c ztunnel/mesh/mesh_edit.c ztunnel/mesh/index.c ztunnel/mesh/decide.c ztunnel/mesh/decide_inbound.c \
	ztunnel/mesh/authority.c ztunnel/mesh/baggage.c ztunnel/mesh/gateway.c ztunnel/mesh/pick.c \
	ztunnel/mesh/rbac.c ztunnel/mesh/assume.c ztunnel/mesh/demand.c ztunnel/mesh/local_state.c ztunnel/mesh/local_policy.c \
	ztunnel/mesh/wds.c ztunnel/mesh/wds_policy.c ztunnel/mesh/store.c ztunnel/mesh/image.c
ZT_OBSERVE := ztunnel/observe/conn_info.c ztunnel/observe/metrics.c ztunnel/observe/metrics_text.c \
	ztunnel/observe/ring.c ztunnel/observe/log_line.c ztunnel/observe/access_log.c \
	ztunnel/observe/dns_metrics.c
ZT_DNS_PURE := ztunnel/dns/msg.c ztunnel/dns/answer.c ztunnel/dns/resolv_conf.c ztunnel/dns/cache.c \
	ztunnel/dns/addresses.c
ZT_DNS := $(ZT_DNS_PURE) ztunnel/dns/lookup.c ztunnel/dns/serve.c ztunnel/dns/tcp.c ztunnel/dns/forward.c
ZT_DATA := $(wildcard ztunnel/data/*.c)
ZT_CA := $(wildcard ztunnel/control/ca*.c) ztunnel/control/istiod.c
ZT_XDS := $(wildcard ztunnel/control/xds*.c)
ZT_CONTROL := $(ZT_CA) $(ZT_XDS) ztunnel/control/certs.c ztunnel/control/credential_fd.c ztunnel/control/pods.c \
	ztunnel/control/zds_client.c ztunnel/control/state_file.c ztunnel/control/crl_file.c ztunnel/control/dump.c \
	ztunnel/control/admin.c ztunnel/control/manager.c ztunnel/control/resolvers.c

PROGS += ztunnel
SRCS_ztunnel := ztunnel/main.c ztunnel/config.c ztunnel/config_istiod.c ztunnel/isolate.c $(ZT_MESH) $(ZT_OBSERVE) \
	$(ZT_CONTROL) $(ZT_DATA) $(ZT_DNS)
PKGS_ztunnel := openssl libnghttp2 yaml-0.1 libprotobuf-c libcap-ng libseccomp
# jemalloc in release only: sanitizers bring their own allocator (style 4.6)
ifeq ($(VARIANT),release)
PKGS_ztunnel += jemalloc
LDFLAGS_ztunnel_release := -static-libgcc # the profiler of jemalloc unwinds; one library less
$(B)/ztunnel/main.o: CFLAGS_ALL += -DAMBIENT_JEMALLOC=1
endif

ZT_TESTS_MESH := index mesh decide decide_inbound pick baggage rbac local_state wds store assume demand
ZT_TESTS_OBSERVE := metrics access_log
UNIT_TESTS += $(ZT_TESTS_MESH) $(ZT_TESTS_OBSERVE) ztunnel_config certs certs_retry ca_csr xds_wire xds_apply
$(foreach t,$(ZT_TESTS_MESH),$(eval OBJS_test_$(t) := $(ZT_MESH)))
$(foreach t,$(ZT_TESTS_OBSERVE),$(eval OBJS_test_$(t) := $(ZT_MESH) $(ZT_OBSERVE)))
$(foreach t,$(ZT_TESTS_MESH) $(ZT_TESTS_OBSERVE),$(eval PKGS_test_$(t) := yaml-0.1 libprotobuf-c))
OBJS_test_ztunnel_config := ztunnel/config.c ztunnel/config_istiod.c ztunnel/control/istiod.c
PKGS_test_ztunnel_config := openssl libnghttp2
OBJS_test_certs := $(ZT_CA) ztunnel/control/certs.c
PKGS_test_certs := openssl libnghttp2 libprotobuf-c
OBJS_test_certs_retry := ztunnel/control/certs.c
OBJS_test_xds_wire := ztunnel/control/xds_wire.c
PKGS_test_xds_wire := libprotobuf-c yaml-0.1
OBJS_test_xds_apply := ztunnel/control/xds_apply.c ztunnel/control/xds_keep.c ztunnel/control/xds_wire.c $(ZT_MESH)
PKGS_test_xds_apply := libprotobuf-c yaml-0.1
OBJS_test_ca_csr := ztunnel/control/ca_csr.c
PKGS_test_ca_csr := openssl
TSAN_TESTS += $(ZT_TESTS_OBSERVE)

FUZZERS += yaml_state authority baggage
$(foreach f,yaml_state authority baggage,$(eval OBJS_fuzz_$(f) := $(ZT_MESH)))
$(foreach f,yaml_state authority baggage,$(eval PKGS_fuzz_$(f) := yaml-0.1 libprotobuf-c))

UNIT_TESTS += churn pool relay hsess hsess_io
OBJS_test_churn := ztunnel/data/churn.c
OBJS_test_relay := ztunnel/data/relay.c ztunnel/data/queue.c ztunnel/data/leg.c \
	ztunnel/data/reset.c
OBJS_test_hsess := ztunnel/data/hsess.c ztunnel/data/leg.c ztunnel/data/reset.c ztunnel/data/sendbuf.c
OBJS_test_hsess_io := ztunnel/data/hsess_io.c ztunnel/data/leg.c ztunnel/data/sendbuf.c ztunnel/data/reset.c
OBJS_test_pool := ztunnel/data/pool.c $(ZT_MESH)
PKGS_test_pool := yaml-0.1 libprotobuf-c

FUZZERS += wds image
OBJS_fuzz_image := $(ZT_MESH)
PKGS_fuzz_image := yaml-0.1 libprotobuf-c
OBJS_fuzz_wds := ztunnel/control/xds_wire.c $(ZT_MESH)
PKGS_fuzz_wds := yaml-0.1 libprotobuf-c

UNIT_TESTS += dns_msg dns_answer dns_cache dns_addresses
OBJS_test_dns_addresses := ztunnel/dns/msg.c ztunnel/dns/addresses.c
OBJS_test_dns_cache := ztunnel/dns/msg.c ztunnel/dns/cache.c
OBJS_test_dns_msg := ztunnel/dns/msg.c ztunnel/dns/resolv_conf.c
OBJS_test_dns_answer := $(ZT_DNS_PURE) $(ZT_MESH)
PKGS_test_dns_answer := yaml-0.1 libprotobuf-c
FUZZERS += dns_query dns_upstream
OBJS_fuzz_dns_query := $(ZT_DNS_PURE) $(ZT_MESH)
PKGS_fuzz_dns_query := yaml-0.1 libprotobuf-c
OBJS_fuzz_dns_upstream := ztunnel/dns/msg.c ztunnel/dns/cache.c ztunnel/dns/addresses.c
