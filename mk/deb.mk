# make deb   build/deb/ambient_<version>_<arch>.deb and ambient-dbgsym_<version>_<arch>.deb, from `make install` and install/debian
# DEB_MAINTAINER='Name <address>' is whom the package names; the default is the changelog's.
DEB_OUT ?= $(O)/deb
export DEB_MAINTAINER
.PHONY: deb deb-built
deb: all
ifneq ($(VARIANT),release)
	$(error a package holds release programs: leave VARIANT out)
endif
	@$(MAKE) deb-built
# The same from what has been built.
deb-built:
	@rm -rf $(DEB_OUT)
	@$(MAKE) -s install-built DESTDIR=$(DEB_OUT)/stage PREFIX=/usr CNI_BIN_DIR=/usr/lib/cni
	@sh install/debian/build.sh $(DEB_OUT) $(B)/bin $(VERSION)
