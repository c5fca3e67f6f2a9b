PROGS += ambientctl
CTL_PURE := ctl/model.c ctl/diagnose.c ctl/table.c ctl/print.c ctl/print_json.c
SRCS_ambientctl := ctl/main.c ctl/http.c $(CTL_PURE)
UNIT_TESTS += ctl ctl_http
OBJS_test_ctl := $(CTL_PURE)
OBJS_test_ctl_http := ctl/http.c
FUZZERS += ctl
OBJS_fuzz_ctl := ctl/http.c $(CTL_PURE)
