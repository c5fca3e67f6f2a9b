PROGS += ambientctl
CTL_PURE := ctl/model.c ctl/diagnose.c ctl/table.c ctl/print.c ctl/print_json.c ctl/rules_print.c \
	ctl/check_rows.c ctl/check_cni.c ctl/check_policy.c ctl/tar.c ctl/redact.c ctl/log_pick.c
EXPORT_PURE := ctl/export_store.c ctl/export_reader.c ctl/export_read.c ctl/export_policy.c ctl/export_peer.c \
	ctl/export_yaml.c
SRCS_ambientctl := ctl/main.c ctl/command.c ctl/ask.c ctl/status.c ctl/ready.c ctl/rules.c ctl/http.c \
	ctl/check.c ctl/check_api.c ctl/kernel.c ctl/bundle.c ctl/logs.c ctl/journal.c $(CTL_PURE) \
	ctl/export_state.c ctl/export_feed.c $(EXPORT_PURE)
PKGS_ambientctl := openssl libnghttp2 yaml-0.1
UNIT_TESTS += ctl ctl_http ctl_check ctl_bundle
OBJS_test_ctl := $(CTL_PURE)
OBJS_test_ctl_http := ctl/http.c
OBJS_test_ctl_check := $(CTL_PURE)
OBJS_test_ctl_bundle := $(CTL_PURE)
FUZZERS += ctl
OBJS_fuzz_ctl := ctl/http.c $(CTL_PURE)

# What is exported must be what ztunnel reads: both sides are in these tests.
UNIT_TESTS += export
OBJS_test_export := $(EXPORT_PURE) $(ZT_MESH)
PKGS_test_export := yaml-0.1 libprotobuf-c
FUZZERS += export
OBJS_fuzz_export := $(EXPORT_PURE) $(ZT_MESH)
PKGS_fuzz_export := yaml-0.1 libprotobuf-c
