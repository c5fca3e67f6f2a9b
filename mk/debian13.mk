# make debian13  builds in a Debian 13 root (gcc 14, OpenSSL 3.5) and runs checks, unit tests and some system tests there. The release
# programs are then in build/trixie/release/bin and run inside that root only.
.PHONY: debian13
debian13:
	@$(MAKE) deps-test
	@tests/debian13.sh
