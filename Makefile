# Every task of the project. `make help` lists them; pre-commit and .ci/run call these targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMPS := $(VENV)/stamps
# uv installs torch many times faster than pip does; the venv gets its own where the machine has none. `make UV= ...` insists on pip.
UV = $(shell PATH="$(BIN):$$PATH" uv --version >/dev/null 2>&1 && echo uv)
# $(call pip_install,VENV): the command that installs packages into that environment.
pip_install = $(if $(UV),uv pip install --quiet --python $(1)/bin/python,$(1)/bin/python -m pip install --quiet)
maturin_develop = CARGO_ENCODED_RUSTFLAGS="$$(bash tools/rustflags.sh)" maturin develop --release
# $(call fresh_venv,VENV,PACKAGES): the command that makes an environment of these packages alone.
fresh_venv = $(PYTHON) -m venv --clear $(1) && $(call pip_install,$(1)) $(2)

FASHION_MNIST := /usr/share/datasets/fashion-mnist
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
SOAK_FRAMES ?= 10000
PYTEST_ARGS ?=
PEERS_ARGS ?=
CHECK_ALL_ARGS ?=
CARGO_DENY := cargo-deny@0.20.2
# The runtimes that quasar_rt is compared with.
PEERS := 'openvino~=2026.4' 'nncf~=3.4' 'onnx~=1.23' 'onnxruntime~=1.32'
ZOO_ARGS ?=
# A module's tests mostly stay in one process, with the fixtures that they share. Some tests wait: one process more.
PYTEST := python -m pytest -n $(shell echo $$(($(JOBS) + 1))) --maxprocesses 8 --dist worksteal

export PATH := $(BIN):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))
export PYO3_PYTHON := $(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# No test, tool or documentation build loads anything from a model hub.
export HF_HUB_OFFLINE := 1

##@ Start here

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {sub(/ *\[(by hand|needs|small|after|in): .*/, "", $$2); printf "  make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: develop ## Build, install what a board would install, classify the packaged images
	@quasar-rt demo
	@echo 'quasar-rt is in $(VENV): . $(VENV)/bin/activate'

.PHONY: test
test: install-test dataset browser eda instruments gstreamer ## Install what tests need and run all of them (Rust and Python)
	@$(MAKE) -j$(JOBS) --output-sync=target hls test-rust test-wheel
	@$(MAKE) test-python

##@ Build and install (into .venv)

.PHONY: develop
develop: $(STAMPS)/venv toolchain ## Build in release mode and install the package, editable, with its run-time dependencies
	@echo 'Building the Rust core; the first time this takes about a minute.'
	@$(maturin_develop) $(if $(UV),--uv)

.PHONY: install-test
install-test: $(STAMPS)/venv toolchain ## The same with the [host] and [test] extras (torch, timm, pytest, ...)
	@echo 'Installing the [host] and [test] extras; the first time this downloads torch (about 3 GB from PyPI).'
	@$(maturin_develop) --quiet $(if $(UV),--uv) --extras host,text,webdataset,datasets,test

.PHONY: wheel
wheel: $(STAMPS)/venv toolchain ## Build the abi3 wheel into dist/ and check what it holds
	@rm -rf dist
	@bash tools/build-wheel.sh dist
	@python tools/check_wheel.py dist/*.whl

.PHONY: c-library
c-library: toolchain ## Build the C library: shared, static and the header, into build/c
	@$(PYTHON) tools/c_library.py build/c

.PHONY: wheels
wheels: $(STAMPS)/release toolchain ## Build what a release uploads into build/release: an sdist, and wheels for x86_64, aarch64 and armv7 (glibc 2.17); check them
	@bash tools/wheels.sh build/release

# The tools of a release, each of one version.
$(STAMPS)/release: $(STAMPS)/venv tools/release.txt
	@$(call pip_install,$(VENV)) --require-hashes -r tools/release.txt
	@touch $@

$(STAMPS)/$(CARGO_DENY): $(STAMPS)/venv | toolchain
	@echo 'Building $(CARGO_DENY); this takes some minutes.'
	@cargo install --quiet --locked --root $(VENV) $(CARGO_DENY)
	@touch $@

# $(call debian,TOOLS AND PATHS,PACKAGES,TESTS): installs Debian packages unless all tools and paths are there or apt-get cannot run.
define debian
@missing() { for tool in $(1); do [ -e $$tool ] || command -v $$tool >/dev/null || echo $$tool; done; }; \
if [ -n "$$(missing)" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
  export DEBIAN_FRONTEND=noninteractive; install='apt-get install -y -qq --no-install-recommends $(2)'; \
  { $$install || { apt-get update -qq && $$install; }; } </dev/null >/dev/null 2>&1 || true; \
fi; \
for tool in $$(missing); do echo "note: $$tool is absent (Debian: $(2)); $(3) will skip"; done
endef

.PHONY: dataset browser eda instruments emulators gstreamer
dataset: ## Install Debian's Fashion-MNIST where that is possible; without it, tests that need it skip
	$(call debian,$(FASHION_MNIST),dataset-fashion-mnist,tests that need it)
browser: ## Install Debian's Chromium where that is possible; without it, tests of pages skip
	$(call debian,chromium,chromium,tests of pages)
eda: ## Install Debian's Clang, Verilator, Yosys, Tcl and dtc where that is possible; without them, tests of the hardware skip
	$(call debian,clang++ verilator yosys yosys-abc tclsh dtc,clang verilator yosys tcl device-tree-compiler,tests that need it)
gstreamer: ## Install Debian's GStreamer for Python where that is possible; without it, the test of the cameras' page skips
	$(call debian,/usr/lib/python3/dist-packages/gi/overrides/Gst.py /usr/lib/*/girepository-1.0/GstVideo-1.0.typelib /usr/lib/*/gstreamer-1.0/libgstvideotestsrc.so,python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base,a test of cameras)
instruments: ## Install Debian's binutils where that is possible; without them, a test of the kernels' code skips
	$(call debian,objdump,binutils,tests that need it)
emulators: ## Install Debian's qemu-user and compilers for Arm where that is possible; without them, tests under emulation cannot run
	$(call debian,qemu-aarch64 qemu-arm aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc,qemu-user gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf libc6-dev-arm64-cross libc6-dev-armhf-cross,tests under emulation)

.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || { echo 'error: cargo is not on PATH; install Rust 1.89 or later, see https://rustup.rs' >&2; exit 1; }

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo 'error: $(PYTHON) is not on PATH; name a Python >= 3.10: make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $$($(PYTHON) --version) is too old; name a Python >= 3.10: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) \
	  || { echo 'error: $(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@[ '$(origin UV)' = 'command line' ] || uv --version >/dev/null 2>&1 || python -m pip install --quiet uv \
	  || echo 'note: uv could not be installed; pip does its work, slower'
	@$(call pip_install,$(VENV)) 'maturin>=1.9.4,<2'
	@mkdir -p $(STAMPS) && touch $@

##@ Tests of their own

.PHONY: test-rust
test-rust: $(STAMPS)/venv toolchain ## The crates' tests (the binding crate is tested through Python)
	@# Documentation tests cannot reach make's job server and would warn.
	env -u MAKEFLAGS -u MFLAGS cargo test --workspace --exclude quasar-py

.PHONY: test-python
test-python: ## The Python tests, with what is installed now [after: install-test]
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: install-test ## The Python tests with more samples (pytest's mark `slow`), which `make test` leaves out
	$(PYTEST) -m slow $(PYTEST_ARGS)

.PHONY: test-rtl
test-rtl: install-test eda ## The array in SystemVerilog, its synthesis by Yosys, the synthesis kit (part of the Python tests, too) [in: test-python]
	$(PYTEST) tests/fpga $(PYTEST_ARGS)

.PHONY: prove
prove: eda ## Prove the assertions of fpga/rtl that have a proof in fpga/formal (part of the Python tests, too)
	@$(PYTHON) tools/prove.py

# $(call demo_from,VENV,FILE): installs a wheel or an sdist as a board would, nothing else, and runs the demo from it.
define demo_from
	@$(call fresh_venv,$(1),$(2))
	@cd build && ../$(1)/bin/python -c 'import importlib.util as u; assert not u.find_spec("torch"), "a board needs no torch"'
	@cd build && ../$(1)/bin/quasar-rt demo
endef

.PHONY: test-wheel
test-wheel: wheel ## Install the wheel as a board would, nothing else, and run the demo from it
	@mkdir -p build
	$(call demo_from,.venv-wheel,dist/*.whl)

# Crates that `make develop` compiled are not compiled again.
.PHONY: test-sdist
test-sdist: export CARGO_TARGET_DIR = $(CURDIR)/target
test-sdist: export CARGO_ENCODED_RUSTFLAGS = $(shell bash tools/rustflags.sh)
test-sdist: develop ## Build the sdist, compare it with the tracked files, install from it, and run the demo
	@rm -rf build/sdist
	@maturin sdist --out build/sdist
	@python tools/check_wheel.py build/sdist/*.tar.gz
	$(call demo_from,.venv-sdist,build/sdist/*.tar.gz)

.PHONY: test-reproducible
test-reproducible: $(STAMPS)/venv toolchain ## That two builds of the wheel, in different folders, give the same bytes
	@bash tools/test-reproducible.sh

.PHONY: test-wheels
test-wheels: wheels emulators ## Test each of `make wheels`: here, and emulated as Cortex-A53, A76 and A9; notes the run in docs/logs.md [needs: qemu-aarch64 qemu-arm apt-get]
	@LOG=1 bash tools/test-wheels.sh build/release

.PHONY: test-min
test-min: wheel ## The Python tests with the oldest supported numpy and pillow, on Python 3.10 if there is one
	@JOBS=$(JOBS) bash tools/test-min.sh

.PHONY: test-floors
test-floors: wheel ## The Python tests of the extras with the lowest versions that pyproject.toml allows; notes the run in docs/logs.md
	@output=$$(mktemp); trap 'rm -f "$$output"' EXIT; \
	JOBS=$(JOBS) bash tools/test-floors.sh $(PYTEST_ARGS) | tee "$$output"; \
	python tools/lab/run_log.py test-floors 'all extras' "$$(tail -n 1 "$$output" | sed 's/ *=* *//; s/ *in .*//') with $$(grep -oE '^Python [0-9.]+|\b(torch|timm)==[0-9.]+' "$$output" | paste -sd ' ')"

# $(call test_arm,NAME): runs the kernels' tests under emulation and notes the run in docs/logs.md; then
# compares the instructions of a frame, and of preparing a camera's frame, with the documented ones.
define test_arm
	@output=$$(mktemp); trap 'rm -f "$$output"' EXIT; \
	sh tools/test-arm.sh $(1) | tee "$$output"; \
	python tools/lab/run_log.py test-$(1) 'all cores' "$$(awk '/^test .*[.][.][.] ok$$/ {n++} END {print n + 0}' "$$output") passed"
	@python tools/lab/count_instructions.py --only $(1) --check
	@python tools/lab/count_instructions.py --only $(1) --camera --check
endef

.PHONY: test-aarch64
test-aarch64: develop emulators ## Rust tests for the NEON tiers of 64-bit Arm, under emulation, and the instructions of a frame; notes the run in docs/logs.md [needs: qemu-aarch64 aarch64-linux-gnu-gcc]
	$(call test_arm,aarch64)

.PHONY: test-armv7
test-armv7: develop emulators ## Rust tests for the NEON tier of 32-bit Arm, under emulation, and the instructions of a frame; notes the run in docs/logs.md [needs: qemu-arm arm-linux-gnueabihf-gcc]
	$(call test_arm,armv7)

.PHONY: bench
bench: install-test ## Latency, GMAC/s and the share of the measured int8 peak (pytest-benchmark) [small: PYTEST_ARGS='--benchmark-max-time=0.1 --benchmark-min-rounds=1']
	python -m pytest tests/bench --benchmark-enable --benchmark-only -p no:cacheprovider $(PYTEST_ARGS)

.PHONY: bench-peers
bench-peers: develop .venv-peers/stamp ## Latency and throughput compared with OpenVINO and ONNX Runtime int8 (installs them in .venv-peers); PEERS_ARGS=--help [small: PEERS_ARGS='--shape deit-tiny --rounds 2 --seconds 0.1']
	@python tools/lab/bench_peers.py --json build/peers/measured.json $(PEERS_ARGS)

.venv-peers/stamp: $(STAMPS)/venv
	@$(call fresh_venv,.venv-peers,$(PEERS))
	@touch $@

.PHONY: fuzz
fuzz: toolchain ## Fuzz every target for FUZZ_SECONDS of processor time each; notes the run in docs/logs.md [small: FUZZ_SECONDS=20]
	@python3 tools/lab/fuzz.py --seconds $(FUZZ_SECONDS) --jobs $(JOBS)

.PHONY: fuzz-corpus
fuzz-corpus: toolchain ## Pack the seeds, and what fuzzing found and reaches new code, into the archives of rust/fuzz/corpus [by hand: changes files on purpose]
	@python3 tools/lab/fuzz.py --pack

.PHONY: loom
loom: toolchain ## The protocol of the team of threads under loom, interleaving by interleaving; notes the run in docs/logs.md
	@bash tools/lab/loom.sh

##@ The accelerator's HLS sources

# Both in one make: they share headers and objects.
.PHONY: hls
hls: toolchain ## The simulated devices of all configurations, and the testbenches once (a part of `make test`) [after: develop]
	@$(MAKE) -C fpga PYTHON=$(BIN)/python --silent sim csim CONFIGS=all AP_CONFIGS=tiny OTHER_FAST=

.PHONY: sim
sim: develop ## Build the simulated device of fpga/configs/tiny.toml (CONFIGS="odd zcu102": of these; all: of every one): build/sim/NAME.so; RTL=1 with array and lanes in SystemVerilog: build/sim-rtl
	@$(MAKE) -C fpga PYTHON=$(BIN)/python -j$(JOBS) --silent sim

.PHONY: waveform
waveform: develop eda ## Record every signal of array and lanes during a frame on CONFIG (tiny): build/waves/CONFIG.vcd, for GTKWave or Surfer; SUBNET=FILE of a subnet of yours [needs: verilator]
	@$(MAKE) -C fpga PYTHON=$(BIN)/python -j$(JOBS) --silent sim RTL=1 TRACE=1 CONFIGS=$(or $(CONFIG),tiny)
	@python tools/waveform.py $(or $(CONFIG),tiny) $(SUBNET)

.PHONY: csim
csim: develop ## C simulation of the HLS sources: ap_int and native integers, g++ and clang++; SANITIZE=1 with ASan and UBSan
	@$(MAKE) -C fpga PYTHON=$(BIN)/python -j$(JOBS) --silent csim

.PHONY: csim-mutants
csim-mutants: develop ## That the testbenches fail when a kernel is wrong: one small fault at a time [small: CSIM_CONFIGS=tiny]
	@$(MAKE) -C fpga PYTHON=$(BIN)/python mutants

.PHONY: soak-device
soak-device: develop sim ## Run SOAK_FRAMES frames on the simulated accelerator under random faults; notes the run in docs/logs.md [small: SOAK_FRAMES=500]
	python tools/lab/soak_device.py --frames $(SOAK_FRAMES) --log

.PHONY: test-pynq
test-pynq: wheel sim ## docs/boards/pynq.md as typed and the PYNQ transport, in environments like PYNQ's images (pynq 3.0.1 and 4.0.0)
	@QUASAR_SIM_DIR=$(CURDIR)/build/sim PYTEST_ARGS='$(PYTEST_ARGS)' bash tools/test-pynq.sh

.PHONY: test-clusters
test-clusters: EXTRAS = host,ray
test-clusters: wheel ## Searches on Ray, and docs/clusters.md on Ray Data and Spark (needs Java), in an environment of their own [needs: java]
	@$(call fresh_venv,.venv-clusters,"$$(echo dist/*.whl)[$(EXTRAS)]" 'pyspark~=4.0' 'scikit-learn>=1.1' pytest pytest-benchmark)
	@.venv-clusters/bin/python -P -m pytest tests/python/test_documents.py -k clusters -p no:cacheprovider $(PYTEST_ARGS)
	@.venv-clusters/bin/python -P -m pytest tests/python/test_workers.py -m 'slow or not slow' -W default -p no:cacheprovider $(PYTEST_ARGS)

##@ FPGA

# The folder that tools/bitstream.py takes by itself, too.
BITSTREAM = build/bitstream/$(BOARD)/$(or $(basename $(notdir $(HARDWARE))),$(BOARD))$(if $(ILA),-ila)

.PHONY: named-board
named-board:
	@[ -n '$(BOARD)' ] || { echo 'error: name a board: make $(or $(firstword $(MAKECMDGOALS)),bitstream) BOARD=zcu102 [HARDWARE=file.toml]' >&2; exit 1; }

.PHONY: hls-reports
hls-reports: named-board develop ## C synthesis alone of BOARD's kernels (HARDWARE=FILE: its configuration) with AMD Vitis, about an hour; compare its reports with the model [by hand: needs AMD Vitis and Vivado]
	@python tools/bitstream.py $(BOARD) $(if $(HARDWARE),--hardware $(HARDWARE)) --synthesis --out $(BITSTREAM:build/bitstream/%=build/hls-reports/%)

.PHONY: bitstream
bitstream: named-board develop ## Build and package BOARD's bitstream (HARDWARE=FILE: its configuration; ILA=1: with logic analyzers) with AMD Vitis and Vivado; compare the kernels' reports with the model [by hand: needs AMD Vitis and Vivado]
	@python tools/bitstream.py $(BOARD) $(if $(HARDWARE),--hardware $(HARDWARE)) $(if $(ILA),--ila) --out $(BITSTREAM)
	@python tools/build_report.py $(BITSTREAM)

.PHONY: place
place: develop ## Place and route UNIT (unit, token, array, lanes, both) of CONFIG (pynq-z2) on an xc7z020 with SEEDS (1), given NEXTPNR and CHIPDB; PLACE_ARGS for more [by hand: needs nextpnr and a chip database]
	@[ -n '$(UNIT)' ] || { echo 'error: name a unit: make place UNIT=token NEXTPNR=... CHIPDB=... (docs/placed.md)' >&2; exit 1; }
	@python tools/place.py $(UNIT) --config fpga/configs/$(or $(CONFIG),pynq-z2).toml --seeds $(or $(SEEDS),1) \
	  $(if $(NEXTPNR),--nextpnr $(NEXTPNR)) $(if $(CHIPDB),--chipdb $(CHIPDB)) $(PLACE_ARGS)

##@ Checks

.PHONY: lint
lint: lint-commits lint-style lint-markdown lint-rust lint-crates lint-python lint-fpga docs ## All linters and the strict documentation build

.PHONY: lint-commits
lint-commits: ## Subjects of commits: imperative, within 72 columns, no full stop
	@$(PYTHON) tools/check_commits.py

.PHONY: lint-style
lint-style: ## Line lengths, how comments open, and that no area is beyond its ceiling of lines
	@$(PYTHON) tools/check_style.py
	@$(PYTHON) tools/check_weight.py

.PHONY: lint-markdown
lint-markdown: $(STAMPS)/dev ## That paragraphs, lists and tables of Markdown are as `make fmt` writes them
	@git ls-files -z '*.md' | xargs -0 rumdl check --quiet

.PHONY: lint-rust
lint-rust: $(STAMPS)/venv toolchain ## rustfmt and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

.PHONY: lint-crates package
lint-crates: toolchain ## That each crate has what packaging needs
	@cargo package --workspace --exclude quasar-py --quiet --allow-dirty --no-verify

.PHONY: audit
audit: $(STAMPS)/release wheel $(STAMPS)/$(CARGO_DENY) ## Licences, sources and known weaknesses of all that crates and wheel depend on (cargo-deny, pip-audit; needs the network) [by hand: needs databases of weaknesses beyond the package registries]
	@$(call fresh_venv,.venv-audit,dist/*.whl)
	@bash tools/audit.sh .venv-audit/bin/python

package: toolchain ## Package each crate and build it from its package: target/package
	cargo package --workspace --exclude quasar-py --allow-dirty

.PHONY: lint-python
lint-python: develop $(STAMPS)/dev ## ruff, mypy --strict, and the stubs against the native module
	ruff check
	ruff format --check
	mypy
	python -m mypy.stubtest quasar_rt._native

.PHONY: lint-fpga
lint-fpga: $(STAMPS)/dev ## clang-format, and that the kernels' pipelined loops have enough memory ports
	git ls-files -z 'fpga/*.h' 'fpga/*.hpp' 'fpga/*.cpp' | xargs -0 -r clang-format --dry-run --Werror
	@if command -v clang++ >/dev/null; then python tools/check_hls_ports.py --quiet; \
	else echo 'note: clang++ is absent (Debian: clang); memory ports of the kernels are not checked'; fi

.PHONY: docs
docs: develop $(STAMPS)/dev ## Build the documentation into build/docs; a warning or a dead link is an error
	@# Sphinx keeps a page of a source file that has not changed, even if torch was absent then.
	@rm -rf build/docs/_modules
	sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs
	@python tools/check_links.py build/docs

.PHONY: fmt
fmt: $(STAMPS)/dev toolchain ## Format everything [by hand: changes files on purpose]
	cargo fmt --all
	ruff check --fix-only --quiet
	ruff format --quiet
	git ls-files -z '*.md' | xargs -0 rumdl fmt --quiet
	git ls-files -z 'fpga/*.h' 'fpga/*.hpp' 'fpga/*.cpp' | xargs -0 -r clang-format -i

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml
	@$(maturin_develop) --quiet $(if $(UV),--uv) --extras dev
	@touch $@

.PHONY: check-all
check-all: ## Run every target that can run on this machine, in small sizes, and sum up; CHECK_ALL_ARGS='--due --minutes 60' or names of targets [by hand: takes hours; in parts]
	@$(PYTHON) tools/check_all.py $(CHECK_ALL_ARGS)

##@ Generated files

.PHONY: vectors
vectors: install-test ## Regenerate the golden vectors from the oracle, and those of resizing from Pillow; fails if they differ from the committed ones
	python tools/vectors.py
	python tools/resize_vectors.py
	git diff --exit-code --stat -- tests/vectors

.PHONY: isa
isa: toolchain ## Regenerate the accelerator's C++ headers, its SystemVerilog packages and the tables of docs/accelerator.md
	cargo run --quiet -p quasar-accelerator --example headers .

.PHONY: c-header
c-header: toolchain ## Regenerate the C library's header
	QUASAR_WRITE_HEADER=1 cargo test --quiet -p quasar-capi --test header

.PHONY: release-tools
release-tools: $(STAMPS)/venv ## Choose anew the versions of what builds and audits a release: tools/release.txt (needs uv) [by hand: changes files on purpose]
	@uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
	  --custom-compile-command 'make release-tools' tools/release.in --output-file tools/release.txt

.PHONY: train-fashion-mnist
train-fashion-mnist: install-test dataset ## Train, quantize and export the packaged subnet of Fashion-MNIST [by hand: takes hours, and changes what ships]
	quasar-rt train --config fashion-mnist --architecture python/quasar_rt/train/recipes/fashion-mnist.json --name fashion-mnist

.PHONY: train-digits
train-digits: install-test ## Train, quantize and export the packaged subnet of scikit-learn's digits [by hand: takes hours, and changes what ships]
	quasar-rt train --config digits --set data.shift=1 --set float_stage.epochs=150 --set quantized_stage.epochs=40 --set baseline=true --architecture python/quasar_rt/train/recipes/digits.json --name digits --run runs/digits-packaged

.PHONY: tables
tables: develop ## The packaged subnets' tables of docs/zoo.md (ZOO_ARGS=--measure on an idle machine: the CPU's times, too)
	python tools/lab/zoo.py $(ZOO_ARGS)

.PHONY: notebooks
notebooks: install-test ## Run the package's notebooks and keep their outputs (NOTEBOOK_ARGS=--check: not) [small: NOTEBOOK_ARGS=--check]
	@$(call pip_install,$(VENV)) --require-hashes --no-deps -r tools/lab/solar-cells.txt
	python tools/notebooks.py $(NOTEBOOK_ARGS)

.PHONY: clean
clean: ## Remove build products and environments (not the trained runs) [by hand: changes files on purpose]
	rm -rf build dist target rust/fuzz/target rust/loom/target .venv .venv-wheel .venv-sdist .venv-min .venv-audit .venv-peers .venv-clusters .venv-floors .venv-pynq .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f python/quasar_rt/*.so
	find python tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
