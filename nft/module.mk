# Rules. Programs that want them list $(NFT_SRCS) and $(NFT_PKGS): only those link libnftnl
# (GPL-2.0-or-later).
NFT_SRCS := $(wildcard nft/*.c)
NFT_PKGS := libnftnl libmnl libnl-route-3.0 libnl-3.0

# The system test's driver; not installed.
PROGS += nftctl
SRCS_nftctl := tests/system/nftctl.c $(NFT_SRCS)
PKGS_nftctl := $(NFT_PKGS)

UNIT_TESTS += nft_rules nft_readback
OBJS_test_nft_rules := $(NFT_SRCS)
PKGS_test_nft_rules := $(NFT_PKGS)
OBJS_test_nft_readback := $(NFT_SRCS)
PKGS_test_nft_readback := $(NFT_PKGS)
UNIT_TESTS += xt
OBJS_test_xt := nft/xt.c
FUZZERS += nft_readback xt
OBJS_fuzz_xt := nft/xt.c
OBJS_fuzz_nft_readback := $(NFT_SRCS)
PKGS_fuzz_nft_readback := $(NFT_PKGS)
