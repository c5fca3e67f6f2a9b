LIB_SRCS += $(wildcard lib/base/*.c lib/os/*.c lib/event/*.c lib/format/*.c lib/wire/*.c lib/kube/*.c)
UNIT_TESTS += base event os log_sink closer credential
FUZZERS += credential
TSAN_TESTS += closer
UNIT_TESTS += ip spiffe json doc yaml zds http1 proxy_v2
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
FUZZERS += h2_server h2_client x509_spiffe grpc crl
PKGS_fuzz_h2_server := libnghttp2
PKGS_fuzz_h2_client := libnghttp2
PKGS_fuzz_x509_spiffe := openssl
PKGS_fuzz_crl := openssl
UNIT_TESTS += https_client grpc_frame
PKGS_test_https_client := openssl libnghttp2

# The client of the Kubernetes API.
UNIT_TESTS += kube_state kubeconfig
PKGS_test_kube_state := yaml-0.1
PKGS_test_kubeconfig := yaml-0.1
FUZZERS += kube_event kubeconfig
PKGS_fuzz_kube_event := yaml-0.1
PKGS_fuzz_kubeconfig := yaml-0.1
