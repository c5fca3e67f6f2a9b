# make helm       builds helm from its Go module, into .cache/helm/bin (needs Go 1.26 or later; HELM=helm takes yours)
# make manifests  renders install/manifests from the charts in install/helm
HELM ?= .cache/helm/bin/helm
GO ?= go
.PHONY: helm manifests
helm: $(if $(findstring /,$(HELM)),$(HELM))
.cache/helm/bin/helm: tests/helm/go.mod
	@mkdir -p $(@D)
	@cd tests/helm && for try in 1 2 3; do \
		CGO_ENABLED=0 $(GO) list -deps helm.sh/helm/v3/cmd/helm >/dev/null && break; sleep $$((try * 10)); done
	cd tests/helm && CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o $(CURDIR)/$@ helm.sh/helm/v3/cmd/helm
manifests: helm
	install/manifests/render.sh $(HELM) install/manifests
