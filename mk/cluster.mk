# make cluster [NODES=2] [ISTIOD=1]   a real Kubernetes cluster on this machine with the product installed, and with an istiod;
#                          as root (docs/cluster.md)
# make cluster-down        ends it and removes every trace but for the build of Kubernetes in .cache/kube
# make kube                builds what a cluster is made of, which the others do by themselves
# make conformance         the scenarios, on clusters of their own, without istiod and with it [SCENARIOS='words of names']
# make conformance-istiod  those with istiod alone, which needs `make stock helm`: on one cluster, and on two that are two networks
NODES ?= 1
SCENARIOS ?=
ISTIOD ?=
CLUSTER := $(PYTHON) tests/cluster/main.py --dir $(O)/cluster
CONFORMANCE = $(PYTHON) tests/conformance/conformance.py --bin $(O)/release/bin
.PHONY: kube cluster cluster-down conformance conformance-istiod
# Kubernetes, etcd, CoreDNS and the program in the tests' pods, into .cache/kube/bin: minutes the first time, then nothing.
kube:
	@$(PYTHON) tests/cluster/build.py
cluster:
	@$(MAKE) deps-cluster
	@$(SUBMAKE) VARIANT=release all
	@$(CLUSTER) up --nodes $(NODES) --bin $(O)/release/bin $(if $(ISTIOD),--istiod)
cluster-down:
	@$(CLUSTER) down
conformance:
	@$(MAKE) deps-cluster
	@$(SUBMAKE) VARIANT=release all
	@$(CONFORMANCE) $(SCENARIOS)
	@$(CONFORMANCE) --istiod $(SCENARIOS)
	@$(CONFORMANCE) --networks $(SCENARIOS)
conformance-istiod:
	@$(MAKE) deps-cluster
	@$(SUBMAKE) VARIANT=release all
	@$(CONFORMANCE) --istiod $(SCENARIOS)
	@$(CONFORMANCE) --networks $(SCENARIOS)
