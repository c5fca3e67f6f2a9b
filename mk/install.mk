# make install [DESTDIR=] [PREFIX=/usr] [CNI_BIN_DIR=/opt/cni/bin]
PREFIX ?= /usr
DESTDIR ?=
BINDIR ?= $(PREFIX)/bin
SBINDIR ?= $(PREFIX)/sbin
MANDIR ?= $(PREFIX)/share/man
UNITDIR ?= $(PREFIX)/lib/systemd/system
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
DOCDIR ?= $(PREFIX)/share/doc/ambient
CNI_BIN_DIR ?= /opt/cni/bin
INSTALLED := $(DESTDIR)$(SBINDIR)/ambient-agent $(DESTDIR)$(SBINDIR)/ztunnel $(DESTDIR)$(BINDIR)/ambientctl \
	$(DESTDIR)$(CNI_BIN_DIR)/ambient-cni
MAN_PAGES := $(wildcard docs/man/*.[1578])
UNITS := $(wildcard install/systemd/*)
BASHCOMPDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPDIR ?= $(PREFIX)/share/zsh/vendor-completions
COMPLETIONS := $(DESTDIR)$(BASHCOMPDIR)/ambientctl $(DESTDIR)$(ZSHCOMPDIR)/_ambientctl
TMPFILES := $(wildcard install/tmpfiles/*.conf)

.PHONY: install install-built uninstall
install: all
	@$(MAKE) install-built
# The same from what has been built. The plugin goes in last and by rename: from then on the runtime may call it.
install-built:
	@install -d $(sort $(dir $(INSTALLED))) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(TMPFILESDIR) $(DESTDIR)$(DOCDIR)
	install -m 755 $(B)/bin/ambient-agent $(B)/bin/ztunnel $(DESTDIR)$(SBINDIR)/
	install -m 755 $(B)/bin/ambientctl $(DESTDIR)$(BINDIR)/
	@for m in $(MAN_PAGES); do s=$${m##*.}; install -D -m 644 -t $(DESTDIR)$(MANDIR)/man$$s $$m; done
	@for u in $(UNITS); do sed 's#@SBINDIR@#$(SBINDIR)#g' $$u > $(DESTDIR)$(UNITDIR)/$${u##*/} && \
		chmod 644 $(DESTDIR)$(UNITDIR)/$${u##*/}; done
	@install -m 644 $(TMPFILES) $(DESTDIR)$(TMPFILESDIR)/
	@install -D -m 644 install/completion/ambientctl.bash $(DESTDIR)$(BASHCOMPDIR)/ambientctl
	@install -D -m 644 install/completion/_ambientctl $(DESTDIR)$(ZSHCOMPDIR)/_ambientctl
	@install -m 644 LICENSE NOTICE $(DESTDIR)$(DOCDIR)/
	install -m 755 $(B)/bin/ambient-cni $(DESTDIR)$(CNI_BIN_DIR)/.ambient-cni.new
	@mv $(DESTDIR)$(CNI_BIN_DIR)/.ambient-cni.new $(DESTDIR)$(CNI_BIN_DIR)/ambient-cni

# Takes out what `make install` put there; the node's CNI configuration must no longer name the plugin.
uninstall:
	rm -f $(INSTALLED) $(COMPLETIONS) $(UNITS:install/systemd/%=$(DESTDIR)$(UNITDIR)/%) $(TMPFILES:install/tmpfiles/%=$(DESTDIR)$(TMPFILESDIR)/%)
	rm -f $(foreach m,$(MAN_PAGES),$(DESTDIR)$(MANDIR)/man$(patsubst .%,%,$(suffix $(m)))/$(notdir $(m)))
	rm -rf $(DESTDIR)$(DOCDIR)
