# The two commands of this repository are `make demo` and `make test`. The rest is listed by `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Cargo uses all cores by itself, and benchmarks want them for themselves.
.NOTPARALLEL:

PREFIX ?= /usr/local
# A relative CARGO_TARGET_DIR is relative to this folder, as for cargo.
target := $(abspath $(or $(CARGO_TARGET_DIR),target))
onnxruntime := $(target)/onnxruntime
libtorch := $(target)/libtorch
export LIBTORCH := $(libtorch)/torch
# A snapshot that differs is a failure, never a file to be looked at later.
export INSTA_UPDATE := no
export PSLD_ONNXRUNTIME := $(onnxruntime)/libonnxruntime.so
psld := $(target)/release/psld
# Give TRAINING where the program comes from elsewhere, as on hosts with a GPU and without Rust.
training := $(or $(TRAINING),$(target)/training/release/psld-training)
# Minutes that `make train-gpu` may take; 0: as many as it needs.
MINUTES ?= 0

# One stage of a longer target: says what it does and how long it took.
define stage
@printf '\n== %s\n' '$(1)'; start=$$(date +%s); $(2); printf '== %s: %s s\n' '$(1)' $$(( $$(date +%s) - start ))
endef

.PHONY: help demo test test-core tests vector minimal networks test-training psld-training train-demo train-gpu check tools onnxruntime \
  libtorch venv header bench bench-core bench-guidance bench-networks study release install \
  dist test-install test-python test-python-torch tools-aarch64 test-aarch64 test-races

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

demo: onnxruntime ## sample 100 images from the bundled trained network into demo.png
	cargo build --release --locked
	$(psld) sample models/fashion-small.onnx -n 100 --label 0-9 --sampler auto --nfe 30 --out demo.png
	@echo "look at demo.png"

# The release build of `make demo` serves the installed tree and Python; the stage after them builds psld with the test
# libraries' features, into the same place.
test: tools check tests test-install test-python vector minimal ## the core: everything that needs neither a GPU nor libtorch

test-core: export PSLD_WITHOUT_VALGRIND := 1
test-core: check tests vector minimal ## the core without valgrind: needs only Rust, a C/C++ compiler, Python 3 with pip

tests: onnxruntime
	$(call stage,tests,cargo test --locked --no-fail-fast)

vector:
	$(call stage,vector code as it is shipped,cargo test --locked --release --lib --test noise)

minimal:
	$(call stage,lints without ONNX Runtime and command line,cargo clippy --locked --no-default-features --all-targets \
	  -- -D warnings)
	$(call stage,lints without ONNX Runtime,cargo clippy --locked --no-default-features --features cli -- -D warnings)

# In a folder of its own: without its default features `psld` would leave another libpsld.so where the C programs look.
networks: onnxruntime ## the training crate's networks in ONNX Runtime, without libtorch
	$(call stage,training: networks in ONNX Runtime,cargo test --locked -p psld-training --target-dir $(target)/training)

# The crate is built twice: libtorch and ONNX Runtime never share a process.
test-training: networks libtorch test-python-torch ## the training crate, with and without libtorch
	$(call stage,training: lints,cargo clippy --locked -p psld-training --features torch --all-targets \
	  --target-dir $(target)/training -- -D warnings)
	$(call stage,training: tests with libtorch,cargo test --locked -p psld-training --features torch --no-fail-fast \
	  --target-dir $(target)/training)
	$(call stage,training: end to end,cargo build --locked && python3 training/tests/end_to_end/run.py \
	  $(target)/training/debug/psld-training $(target)/debug/psld)

psld-training: $(if $(TRAINING),,libtorch)
	$(if $(TRAINING),,cargo build --release --locked -p psld-training --features torch --target-dir $(target)/training)

train-demo: psld-training ## train a small network on a CPU in ten minutes: runs/demo has model, loss plot, samples
	$(training) data fetch fashion-mnist
	scripts/train.sh $(training) 0 demo
	@echo "look at runs/demo/loss.png and runs/demo/samples/"

train-gpu: psld-training ## train the CIFAR-10 networks in runs/; with MINUTES=9 in pieces, each by the same command
	$(training) data fetch cifar10
	scripts/train.sh $(training) $(MINUTES) cifar10-classifier cifar10-small

check: ## formatting and lints
	$(call stage,format,cargo fmt --all --check)
	$(call stage,lints,cargo clippy --locked --all-targets -- -D warnings)

tools: # fails with one line that installs what is missing
	@missing=; for pair in valgrind:valgrind cc:gcc c++:g++ nm:binutils timeout:coreutils cmake:cmake \
	  pkg-config:pkg-config; do \
	  command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; \
	python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then echo "missing tools: apt install$$missing" >&2; exit 1; fi

onnxruntime: ## fetch ONNX Runtime's library (pinned, from PyPI) into target/
	@scripts/fetch-onnxruntime.sh $(onnxruntime)

libtorch: ## fetch libtorch (pinned, from PyPI) into target/
	@scripts/fetch-libtorch.sh $(libtorch)

release: # the libraries and the program, as they are shipped
	cargo build --release --locked

install: release ## into PREFIX (default /usr/local; DESTDIR is put before it)
	scripts/install.sh $(target)/release "$(DESTDIR)$(PREFIX)"

dist: release onnxruntime ## a tarball with ONNX Runtime beside the library, for any folder; into target/dist/
	scripts/dist.sh $(target)/release $(onnxruntime) $(target)/dist

test-install: tools release onnxruntime ## install into a clean folder, and build the examples against it
	$(call stage,installed: CMake and pkg-config and the tarball,scripts/test-install.sh $(target)/release $(onnxruntime) \
	  $(target)/test-install)

test-python: release ## the wheel, in a fresh environment
	$(call stage,Python,scripts/test-python.sh $(target)/release $(target)/venv-python)

test-python-torch: release libtorch ## the wheel with PyTorch and diffusers: fetches 0.6 GB, once
	$(call stage,Python with PyTorch,scripts/test-python-torch.sh $(target)/release $(libtorch) $(target)/venv-torch)

tools-aarch64:
	@missing=; for pair in aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64:qemu-user; do \
	  command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; \
	[ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] || missing="$$missing libc6-dev-arm64-cross"; \
	if [ -n "$$missing" ]; then echo "missing tools: apt install$$missing" >&2; exit 1; fi; \
	[ -d "$$(rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu" ] || \
	  { echo "missing target: rustup target add aarch64-unknown-linux-gnu" >&2; exit 1; }

# Without ONNX Runtime, and without the tests that start programs or watch the memory of this process: both are qemu's.
test-aarch64: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER := aarch64-linux-gnu-gcc
test-aarch64: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER := qemu-aarch64 -L /usr/aarch64-linux-gnu
test-aarch64: tools-aarch64 ## the same bits on AArch64, emulated: needs a cross compiler, qemu-user and Rust's target
	$(call stage,noise and exact networks and the C ABI on AArch64,cargo test --locked --no-default-features \
	  --target aarch64-unknown-linux-gnu --test noise --test conformance --test capi -- --skip all_of_it \
	  --skip memory_stays_flat)

# The sanitizer wants a standard library that was built with it; RUSTC_BOOTSTRAP lets the stable compiler do that.
test-races: export RUSTC_BOOTSTRAP := 1
test-races: export RUSTFLAGS := -Zsanitizer=thread
test-races: ## the engine and the C ABI under ThreadSanitizer: needs `rustup component add rust-src`
	$(call stage,engine and C ABI under ThreadSanitizer,cargo test --locked --no-default-features -Zbuild-std \
	  --target x86_64-unknown-linux-gnu --target-dir $(target)/races --test engine --test capi -- --skip memory_stays_flat \
	  --skip all_of_it)

study: onnxruntime release ## measure the samplers at few calls: target/study/ has table, CSV and plot
	scripts/study.sh $(psld) $(target)/study $(STATS)

header: ## write include/psld.h anew from src/capi/
	PSLD_UPDATE_HEADER=1 cargo test --locked --test header

bench: bench-core bench-guidance bench-networks ## measure, side by side with a peer in the same run

venv:
	python3 -m venv $(target)/venv && $(target)/venv/bin/pip install -q -r benches/requirements.txt

bench-core: onnxruntime venv ## the first half of it: the core's loop, kernels and noise
	PYTHON=$(target)/venv/bin/python cargo bench --locked --bench noise --bench sampling --bench engine --bench host

bench-guidance: release onnxruntime venv ## how well guidance reaches the class that is asked for: minutes
	$(target)/venv/bin/python benches/guidance.py $(psld)

bench-networks: libtorch venv ## the second half: exported networks in ONNX Runtime against libtorch
	cargo build --release --locked -p psld-training --features torch --example network_speed --target-dir $(target)/training
	$(target)/venv/bin/python training/benches/network.py $(target)/training/release/examples/network_speed
