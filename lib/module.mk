LIB_SRCS += $(wildcard lib/base/*.c lib/os/*.c lib/event/*.c lib/format/*.c lib/wire/*.c)
UNIT_TESTS += base event os
UNIT_TESTS += ip spiffe json doc yaml zds http1
PKGS_test_yaml := yaml-0.1
PKGS_test_zds := libprotobuf-c
FUZZERS += json yaml zds ip spiffe http1
PKGS_fuzz_yaml := yaml-0.1
PKGS_fuzz_zds := libprotobuf-c

# The differential test's driver; not installed.
PROGS += jsoncheck
SRCS_jsoncheck := tests/system/jsoncheck.c
UNIT_TESTS += tls h2
PKGS_test_tls := openssl
PKGS_test_h2 := libnghttp2
FUZZERS += h2_server h2_client x509_spiffe
PKGS_fuzz_h2_server := libnghttp2
PKGS_fuzz_h2_client := libnghttp2
PKGS_fuzz_x509_spiffe := openssl
UNIT_TESTS += https_client
PKGS_test_https_client := openssl libnghttp2
