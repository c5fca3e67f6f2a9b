AGENT_PURE := node-agent/view.c node-agent/config.c node-agent/config_stock.c node-agent/source/pods.c \
	node-agent/source/labels.c node-agent/source/manifest.c node-agent/source/last_state.c \
	node-agent/enrol/selectors.c \
	node-agent/enrol/eligibility.c node-agent/enrol/attachment.c node-agent/enrol/cgroup.c \
	node-agent/enrol/probes.c node-agent/enrol/netns_check.c node-agent/serve/cni_request.c
AGENT_PKGS := $(NFT_PKGS) yaml-0.1 libprotobuf-c libcap-ng libseccomp openssl libnghttp2

PROGS += ambient-agent
SRCS_ambient-agent := $(wildcard node-agent/*.c node-agent/*/*.c) $(NFT_SRCS)
PKGS_ambient-agent := $(AGENT_PKGS)

UNIT_TESTS += agent_eligibility agent_manifest agent_parse agent_selectors agent_settings last_state
OBJS_test_agent_eligibility := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_eligibility := $(AGENT_PKGS)
OBJS_test_agent_manifest := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_manifest := $(AGENT_PKGS)
OBJS_test_agent_parse := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_parse := $(AGENT_PKGS)
OBJS_test_agent_selectors := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_selectors := $(AGENT_PKGS)
OBJS_test_agent_settings := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_agent_settings := $(AGENT_PKGS)
OBJS_test_last_state := $(AGENT_PURE) $(NFT_SRCS)
PKGS_test_last_state := $(AGENT_PKGS)
UNIT_TESTS += kube_self vault
OBJS_test_vault := node-agent/enrol/vault.c
OBJS_test_kube_self := node-agent/source/kube_self.c node-agent/source/placement.c
PKGS_test_kube_self := openssl libnghttp2 yaml-0.1
FUZZERS += manifest cni_request attachment
OBJS_fuzz_manifest := node-agent/source/manifest.c node-agent/source/pods.c node-agent/source/labels.c
PKGS_fuzz_manifest := yaml-0.1
OBJS_fuzz_cni_request := node-agent/serve/cni_request.c node-agent/enrol/attachment.c
OBJS_fuzz_attachment := node-agent/enrol/attachment.c
FUZZERS += selectors last_state
OBJS_fuzz_last_state := node-agent/source/last_state.c node-agent/source/manifest.c node-agent/source/pods.c node-agent/source/labels.c
PKGS_fuzz_last_state := yaml-0.1
OBJS_fuzz_selectors := node-agent/enrol/selectors.c node-agent/source/labels.c
PKGS_fuzz_selectors := yaml-0.1

# Putting the plugin on the node.
HOST_PURE := node-agent/host/cniconf.c node-agent/host/plan.c
UNIT_TESTS += cniconf install
OBJS_test_cniconf := $(HOST_PURE)
OBJS_test_install := $(AGENT_PURE) $(NFT_SRCS) $(HOST_PURE) node-agent/host/confdir.c node-agent/host/install.c
PKGS_test_install := $(AGENT_PKGS)
FUZZERS += cniconf
OBJS_fuzz_cniconf := $(HOST_PURE)
