# make demo and make test do all of the set-up themselves; see README.md.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
BIN := .venv/bin
# As the vintix-fast command sets it (cli/__init__.py): on a busy machine torch's waiting threads slow tests down tenfold.
export GOMP_SPINCOUNT ?= 3000
# setuptools stops, and pip makes a folder named "~", where there is no home: containers often give none to their user.
PIP_ENVIRONMENT := $(if $(HOME),,HOME='$(CURDIR)/build' PIP_NO_CACHE_DIR=1)
# What a change of means that the package must be installed anew.
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)

.PHONY: demo checkpoints runner test lint wheel wheel-arm64 install clean

demo: install
	$(BIN)/vintix-fast demo $(DEMO_OPTIONS)

# Hours: experts, histories and the bundled models, from nothing.
checkpoints: install
	$(BIN)/python benchmarks/make_checkpoints.py --output-dir runs/checkpoints
	$(BIN)/python benchmarks/make_worlds.py --output-dir runs/worlds --histories runs/checkpoints/histories

# libvintix_policy and its programs, for this machine and, where Debian's cross compiler is installed, for 64-bit Arm.
# Needs neither Python nor the package.
runner:
	cmake -S csrc/runner -B build/runner/native
	cmake --build build/runner/native
	@if command -v aarch64-linux-gnu-g++ >/dev/null; then set -x; \
	cmake -S csrc/runner -B build/runner/aarch64 -DCMAKE_TOOLCHAIN_FILE='$(CURDIR)/csrc/runner/aarch64.cmake' && \
	cmake --build build/runner/aarch64; \
	else echo 'No aarch64-linux-gnu-g++: built for this machine alone. apt-get install g++-aarch64-linux-gnu'; fi

# As many at a time as there are cores, each with one thread.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# kernels/, cli/ and benchmarks/ lie at the top but are installed inside the package; links show mypy that order.
lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@rm -rf build/typed && mkdir -p build/typed/vintix_fast
	@cd build/typed/vintix_fast && ln -s ../../../vintix_fast/* ../../../kernels ../../../cli ../../../benchmarks .
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p vintix_fast

# dist/: an sdist, and a wheel for machines without compiler and HDF5; see docs/container.md.
wheel: install
	PYTHON=$(BIN)/python packaging/wheel.sh

# The wheel for 64-bit Arm, made on another Debian machine with its cross compiler; see docs/container.md.
wheel-arm64: install
	PYTHON=$(BIN)/python packaging/wheel_arm64.sh

install: .venv/installed

.venv/installed: $(SOURCES)
	@sh csrc/ensure_system.sh $(PYTHON)
	$(or $(PYTHON),python3) -m venv .venv
	$(PIP_ENVIRONMENT) $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist
