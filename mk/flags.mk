# Compiler and linker flags, one set per variant. Optional flags are probed, so that gcc 12, gcc 14
# and clang 14 build the same tree.
cc-opt = $(shell $(CC) $(1) -Werror -x c -c -o /dev/null /dev/null 2>/dev/null && echo $(1))

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual \
	-Wwrite-strings -Wvla -Wformat=2 -Wundef -Wswitch-enum -Wconversion -Wno-sign-conversion \
	-Wimplicit-fallthrough
WARN_PROBED := $(call cc-opt,-Wduplicated-cond) $(call cc-opt,-Wduplicated-branches) \
	$(call cc-opt,-Wlogical-op) $(call cc-opt,-Wbidi-chars=any)
# clang also reports casts that come from macros of system headers (libmnl, OpenSSL); gcc watches our own.
ifneq ($(findstring clang,$(shell $(CC) --version 2>/dev/null)),)
WARN += -Wno-cast-qual
endif
WERROR ?= 1
ifeq ($(WERROR),1)
WARN += -Werror
endif

HARDEN := -fstack-protector-strong -fstack-clash-protection $(call cc-opt,-ftrivial-auto-var-init=zero) \
	-fno-strict-aliasing -fno-delete-null-pointer-checks -fno-common \
	$(call cc-opt,-fcf-protection=full) $(call cc-opt,-fstrict-flex-arrays=3) \
	$(call cc-opt,-mbranch-protection=standard)
BASE_CFLAGS := -std=gnu17 -g -fPIE -pthread -D_GNU_SOURCE -DVERSION='"$(VERSION)"' -I. -I$(G) \
	$(WARN) $(WARN_PROBED)

CFLAGS_release := -O2 -D_FORTIFY_SOURCE=3 $(HARDEN)
LDFLAGS_release := -pie
CFLAGS_asan := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -DSANITIZED=1
LDFLAGS_asan := -pie -fsanitize=address,undefined
CFLAGS_tsan := -O1 -fno-omit-frame-pointer -fsanitize=thread -DSANITIZED=1
LDFLAGS_tsan := -pie -fsanitize=thread
CFLAGS_fuzz := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link \
	-fno-sanitize-recover=all -DSANITIZED=1
LDFLAGS_fuzz := -pie -fsanitize=address,undefined
ifeq ($(filter $(VARIANT),release asan tsan fuzz),)
$(error VARIANT must be one of release, asan, tsan, fuzz)
endif
CFLAGS_ALL := $(BASE_CFLAGS) $(CFLAGS_$(VARIANT)) $(CFLAGS)
LDFLAGS_ALL := -pthread $(LDFLAGS_$(VARIANT)) \
	-Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-code,--as-needed $(LDFLAGS)
