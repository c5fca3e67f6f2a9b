PROGS += ambient-cni
CNI_PURE := cni/fail.c cni/version.c cni/env.c cni/netconf.c cni/result.c cni/scope.c cni/rpc.c cni/http_answer.c
SRCS_ambient-cni := cni/main.c cni/exchange.c $(CNI_PURE)
# Nothing but libc, and even that inside: starting must cost less than the work (style 4.7).
LDFLAGS_ambient-cni_release := -static-pie
UNIT_TESTS += cni_env cni_netconf cni_result cni_rpc
OBJS_test_cni_env := $(CNI_PURE)
OBJS_test_cni_netconf := $(CNI_PURE)
OBJS_test_cni_result := $(CNI_PURE)
OBJS_test_cni_rpc := $(CNI_PURE)
FUZZERS += netconf
OBJS_fuzz_netconf := $(CNI_PURE)
