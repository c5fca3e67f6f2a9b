LIB_SRCS += $(wildcard lib/base/*.c lib/os/*.c lib/event/*.c lib/format/*.c lib/wire/*.c)
UNIT_TESTS += base event
UNIT_TESTS += ip spiffe json doc yaml zds http1
PKGS_test_yaml := yaml-0.1
PKGS_test_zds := libprotobuf-c
PKGS_test_http1 := libmicrohttpd
