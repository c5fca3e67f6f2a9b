AGENT_PURE := node-agent/config.c node-agent/source/pods.c node-agent/source/manifest.c \
	node-agent/enrol/eligibility.c node-agent/enrol/attachment.c node-agent/enrol/cgroup.c \
	node-agent/enrol/probes.c node-agent/enrol/netns_check.c node-agent/serve/cni_request.c
AGENT_PKGS := $(NFT_PKGS) yaml-0.1 libprotobuf-c libsystemd libcap-ng libseccomp openssl libnghttp2

PROGS += ambient-agent
SRCS_ambient-agent := $(wildcard node-agent/*.c node-agent/*/*.c) $(NFT_SRCS)
PKGS_ambient-agent := $(AGENT_PKGS)

UNIT_TESTS += agent_eligibility agent_manifest agent_parse
OBJS_test_agent_eligibility := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_eligibility := $(AGENT_PKGS)
OBJS_test_agent_manifest := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_manifest := $(AGENT_PKGS)
OBJS_test_agent_parse := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_parse := $(AGENT_PKGS)
FUZZERS += manifest cni_request attachment
OBJS_fuzz_manifest := node-agent/source/manifest.c node-agent/source/pods.c
PKGS_fuzz_manifest := yaml-0.1
OBJS_fuzz_cni_request := node-agent/serve/cni_request.c node-agent/enrol/attachment.c
OBJS_fuzz_attachment := node-agent/enrol/attachment.c

# Putting the plugin on the node.
HOST_PURE := node-agent/host/cniconf.c node-agent/host/plan.c
UNIT_TESTS += cniconf install
OBJS_test_cniconf := $(HOST_PURE)
OBJS_test_install := $(AGENT_PURE) $(NFT_SRCS) $(HOST_PURE) node-agent/host/confdir.c node-agent/host/install.c
PKGS_test_install := $(AGENT_PKGS)
FUZZERS += cniconf
OBJS_fuzz_cniconf := $(HOST_PURE)

# The Kubernetes API as the source.
KUBE_PURE := node-agent/source/kube_json.c node-agent/source/kube_state.c node-agent/source/kubeconfig.c
UNIT_TESTS += kube_state kubeconfig
OBJS_test_kube_state := $(KUBE_PURE)
PKGS_test_kube_state := yaml-0.1
OBJS_test_kubeconfig := $(KUBE_PURE)
PKGS_test_kubeconfig := yaml-0.1
FUZZERS += kube_event kubeconfig
OBJS_fuzz_kube_event := $(KUBE_PURE)
PKGS_fuzz_kube_event := yaml-0.1
OBJS_fuzz_kubeconfig := $(KUBE_PURE)
PKGS_fuzz_kubeconfig := yaml-0.1
