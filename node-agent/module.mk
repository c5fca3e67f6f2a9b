AGENT_SRCS := $(wildcard node-agent/*.c node-agent/*/*.c)
AGENT_PKGS := $(NFT_PKGS) yaml-0.1 libprotobuf-c libmicrohttpd libsystemd libcap-ng libseccomp
PROGS += ambient-agent
SRCS_ambient-agent := $(AGENT_SRCS) $(NFT_SRCS)
PKGS_ambient-agent := $(AGENT_PKGS)
