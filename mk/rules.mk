# Pattern rules. V=1 shows the commands.
Q = $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-5s %s\n' $(1) $(2);)

# Rebuild everything of a variant when its flags change.
$(B)/.flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(subst ','\'',$(CFLAGS_ALL) $(LDFLAGS_ALL))' | cmp -s - $@ || \
		echo '$(CC) $(subst ','\'',$(CFLAGS_ALL) $(LDFLAGS_ALL))' > $@
.PHONY: FORCE
FORCE:

# Generated protobuf code.
PROTOS := $(wildcard proto/*.proto)
GEN_H := $(PROTOS:proto/%.proto=$(G)/proto/%.pb-c.h)
GEN_C := $(PROTOS:proto/%.proto=$(G)/proto/%.pb-c.c)
$(G)/proto/%.pb-c.c $(G)/proto/%.pb-c.h: proto/%.proto
	@mkdir -p $(G)/proto
	$(call say,GEN,$<)protoc-c --c_out=$(G) $<

OBJ_CFLAGS = $(foreach p,$(PKG_NAMES),$(PKG_CFLAGS_$(p)))
$(B)/%.o: %.c $(B)/.flags | $(GEN_H)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CFLAGS_ALL) $(OBJ_CFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(B)/gen/%.o: $(G)/%.c $(B)/.flags | $(GEN_H)
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CFLAGS_ALL) -Wno-conversion -Wno-cast-qual -Wno-undef -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

LIB_OBJS := $(LIB_SRCS:%.c=$(B)/%.o) $(PROTOS:proto/%.proto=$(B)/gen/proto/%.pb-c.o)
$(B)/libmesh.a: $(LIB_OBJS)
	$(call say,AR,$@)rm -f $@ && ar rcs $@ $^

pkg-link = $(foreach p,$(1),$(PKG_LIBS_$(p)))
objs = $(patsubst %.c,$(B)/%.o,$(1))

# Programs: SRCS_<p> is linked with the library archive; only what is used is pulled in.
# A release program's debug symbols are split off into <program>.debug.
define PROG_RULE
$(B)/bin/$(1): $(call objs,$(SRCS_$(1))) $(B)/libmesh.a
	@mkdir -p $$(@D)
	$$(call say,LD,$$@)$(CC) $(LDFLAGS_ALL) $(LDFLAGS_$(1)_$(VARIANT)) -o $$@ $$^ $(call pkg-link,$(PKGS_$(1)))
ifeq ($(VARIANT),release)
	$(Q)objcopy --only-keep-debug $$@ $$@.debug && objcopy --strip-debug --strip-unneeded --add-gnu-debuglink=$$@.debug $$@
endif
endef
$(foreach p,$(PROGS),$(eval $(call PROG_RULE,$(p))))

# Unit tests link the objects under test (OBJS_test_<n>, as .c paths) and the library.
define UNIT_RULE
$(B)/tests/unit/test_$(1): $(B)/tests/unit/test_$(1).o $(call objs,$(OBJS_test_$(1))) $(B)/libmesh.a
	$$(call say,LD,$$@)$(CC) $(LDFLAGS_ALL) -o $$@ $$^ $(call pkg-link,cmocka $(PKGS_test_$(1)))
endef
$(foreach t,$(UNIT_TESTS),$(eval $(call UNIT_RULE,$(t))))

# Fuzz targets: libFuzzer in VARIANT=fuzz (CC=clang), a seed replayer otherwise.
ifeq ($(VARIANT),fuzz)
FUZZ_LINK := -fsanitize=fuzzer
FUZZ_MAIN :=
else
FUZZ_LINK :=
FUZZ_MAIN := $(B)/tests/fuzz/replay.o
endif
define FUZZ_RULE
$(B)/tests/fuzz/fuzz_$(1): $(B)/tests/fuzz/fuzz_$(1).o $(FUZZ_MAIN) $(call objs,$(OBJS_fuzz_$(1))) $(B)/libmesh.a
	$$(call say,LD,$$@)$(CC) $(LDFLAGS_ALL) $(FUZZ_LINK) -o $$@ $$^ $(call pkg-link,$(PKGS_fuzz_$(1)))
endef
$(foreach t,$(FUZZERS),$(eval $(call FUZZ_RULE,$(t))))

.PHONY: units fuzzers clean
units: $(UNIT_TESTS:%=$(B)/tests/unit/test_%)
fuzzers: $(FUZZERS:%=$(B)/tests/fuzz/fuzz_%)
clean:
	rm -rf $(O)

-include $(shell find $(B) -name '*.d' 2>/dev/null)

.PRECIOUS: $(G)/proto/%.pb-c.c $(G)/proto/%.pb-c.h
