# The two commands of this repository are `make demo` and `make test`. The rest is listed by `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
# A relative CARGO_TARGET_DIR is relative to this folder, as for cargo.
target := $(abspath $(or $(CARGO_TARGET_DIR),target))
onnxruntime := $(target)/onnxruntime
export PSLD_ONNXRUNTIME := $(onnxruntime)/libonnxruntime.so
psld := $(target)/release/psld

# One stage of a longer target: says what it does and how long it took.
define stage
@printf '\n== %s\n' '$(1)'; start=$$(date +%s); $(2); printf '== %s: %s s\n' '$(1)' $$(( $$(date +%s) - start ))
endef

.PHONY: help demo test test-core check tools onnxruntime header bench install

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: onnxruntime ## sample 64 images from the bundled network into demo.png
	cargo build --release --locked
	$(psld) sample models/cifar10-exact.onnx -n 64 --out demo.png
	@echo "look at demo.png"

test: tools test-core ## everything that needs no GPU

test-core: check onnxruntime ## what needs only Rust, a C/C++ compiler and Python 3 with pip
	$(call stage,build,cargo build --locked --all-targets)
	$(call stage,tests,cargo test --locked --no-fail-fast)
	$(call stage,vector code as it is shipped,cargo test --locked --release --lib --test noise)
	$(call stage,without ONNX Runtime,cargo test --locked --no-default-features --lib --test golden --test run)

check: ## formatting and lints
	$(call stage,format,cargo fmt --check)
	$(call stage,lints,cargo clippy --locked --all-targets -- -D warnings)

tools: # fails with one line that installs what is missing
	@missing=; for pair in valgrind:valgrind cc:gcc c++:g++ pkg-config:pkg-config; do \
	  command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then echo "missing tools: apt install$$missing" >&2; exit 1; fi

onnxruntime: ## fetch ONNX Runtime's library (pinned, from PyPI) into target/
	@scripts/fetch-onnxruntime.sh $(onnxruntime)

header: ## write include/psld.h anew from src/capi/
	PSLD_UPDATE_HEADER=1 cargo test --locked --test header

bench: onnxruntime ## measure, side by side with a peer in the same run
	cargo bench --locked
