# `make` alone prints what there is.
SHELL      := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/bin:$(PATH)

KUBERNETES := v1.37.2
VERSION    := $(shell cat VERSION)
GO         := go
GOBUILD    := $(GO) build -trimpath -buildvcs=false
LDFLAGS    := -s -w -X sampan.dev/internal/version.Sampan=$(VERSION)
KUBECTLVER := $(foreach p,k8s.io/component-base/version k8s.io/client-go/pkg/version,-X $(p).gitVersion=$(KUBERNETES) -X $(p).gitCommit=$(KUBERNETES) -X $(p).gitMajor=1 -X $(p).gitMinor=37)
PACKED     := internal/bundle/packed
DEMO_DIR   ?= /var/lib/sampan

.PHONY: help
help: ## what there is
	@echo "sampan: a whole Kubernetes in one small program"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: deps
deps: ## install what a build needs from Debian's packages (gcc, libseccomp), if it is missing
	@hack/deps build

.PHONY: build
build: deps bin/sampan ## bin/sampan: one static program with the runtime and kubectl packed in

# The three programs are built every time: go itself knows what has changed, and is quick when nothing has.
.PHONY: bin/sampan
bin/sampan: pack
	CGO_ENABLED=0 $(GOBUILD) -tags packed -ldflags '$(LDFLAGS)' -o $@ ./cmd/sampan

.PHONY: bin/sampan-runtime
bin/sampan-runtime:
	CGO_ENABLED=1 $(GOBUILD) -tags 'netgo osusergo seccomp' -ldflags '-s -w -X main.version=$(VERSION) -extldflags "-static"' -o $@ ./cmd/sampan-runtime

.PHONY: bin/kubectl
bin/kubectl:
	cd cmd/kubectl && CGO_ENABLED=0 $(GOBUILD) -ldflags '-s -w $(KUBECTLVER)' -o $(CURDIR)/$@ .

.PHONY: pack
pack: bin/sampan-runtime bin/kubectl
	@mkdir -p $(PACKED)
	$(GO) run ./internal/bundle/pack bin/sampan-runtime $(PACKED)/sampan-runtime
	$(GO) run ./internal/bundle/pack bin/kubectl $(PACKED)/kubectl

.PHONY: test
test: ## everything: formatting, vet, staticcheck, unit tests, scripts, real containers
	@hack/deps build test
	@hack/test

.PHONY: lint
lint: ## gofumpt, go vet and staticcheck alone
	@hack/lint

.PHONY: bench
bench: build ## measure what docs/performance.md keeps
	@hack/deps test
	@$(GO) run ./test/bench

.PHONY: demo
demo: build ## start a cluster on this machine, run a pod and ask it over HTTP
	@hack/deps demo
	@hack/demo $(DEMO_DIR)

.PHONY: demo-clean
demo-clean: ## remove all that the demo made
	@hack/demo-clean $(DEMO_DIR)

.PHONY: fmt
fmt: ## format all Go code
	@$(GO) run mvdan.cc/gofumpt@v0.12.0 -w $$(git ls-files '*.go')

.PHONY: budget
budget: build ## write down the binary's size and the dependencies anew
	@hack/budget --write

.PHONY: clean
clean: ## remove what was built
	rm -rf bin $(PACKED)/*.zst $(PACKED)/*.sha256
