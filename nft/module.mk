# Rules. Programs that want them list $(NFT_SRCS) and $(NFT_PKGS): only those link libnftnl
# (GPL-2.0-or-later).
NFT_SRCS := $(wildcard nft/*.c)
NFT_PKGS := libnftnl libmnl libnl-route-3.0 libnl-3.0

# The system test's driver; not installed.
PROGS += nftctl
SRCS_nftctl := tests/system/nftctl.c $(NFT_SRCS)
PKGS_nftctl := $(NFT_PKGS)
