# One non-recursive Makefile. Each room's module.mk only lists its sources and libraries.
#   make [VARIANT=release|asan|tsan|fuzz] [V=1] [O=build]
MAKEFLAGS += -rR --no-print-directory
.DELETE_ON_ERROR:
.SECONDEXPANSION:
.SUFFIXES:
V ?= 0
O ?= build
VARIANT ?= release
B := $(O)/$(VARIANT)
G := $(O)/gen
CC ?= cc
ifeq ($(origin CC),default)
CC := cc
endif
VERSION := 0.1.0

.PHONY: all
all:

include mk/flags.mk
include mk/pkg.mk

# module.mk files append to these:
#   LIB_SRCS         sources of the shared library (static, linked by section)
#   PROGS            program names;  SRCS_<prog>, PKGS_<prog>, LDFLAGS_<prog>
#   UNIT_TESTS       names: tests/unit/test_<name>.c;  PKGS_test_<name>, OBJS_test_<name>
#   FUZZERS          names: tests/fuzz/fuzz_<name>.c;  PKGS_fuzz_<name>, OBJS_fuzz_<name>
LIB_SRCS :=
PROGS :=
UNIT_TESTS :=
FUZZERS :=
MODULES := lib nft cni node-agent ztunnel ctl
include $(wildcard $(MODULES:%=%/module.mk))
include mk/rules.mk
include $(wildcard mk/check.mk mk/test.mk mk/install.mk mk/deb.mk mk/image.mk mk/helm.mk mk/debian13.mk mk/demo.mk mk/bench.mk mk/cluster.mk)

all: $(PROGS:%=$(B)/bin/%)
