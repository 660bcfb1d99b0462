PYTHON ?= python3.11
THREADS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
TTTNN_HOME ?= $(CURDIR)/.cache/tttnn

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
READY := .venv/.ready
TORCH := $(shell sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements.lock)
WEIGHTS := smollm2-135m all-minilm-l6-v2

# A copied .venv still runs the clone that it was copied from, and one whose Python is gone runs nothing: made anew.
ifneq ($(shell $(BIN)/python -c '' 2>/dev/null && cat .venv/.place 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

export TTTNN_HOME
export OMP_NUM_THREADS = $(THREADS)
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1
export PYDEVD_DISABLE_FILE_VALIDATION = 1

# Tests and reference outputs must not depend on the network or on progress bars.
test test-all notebooks: export HF_HUB_OFFLINE = 1
test test-all notebooks: export TQDM_DISABLE = 1
# Threads that wait for each other sleep: two processes that spin on two cores take up to forty times as long.
test test-all notebooks: export OMP_WAIT_POLICY = passive

# A file's tests stay in one process, and the files that take longest begin first: tests/ and notebooks/conftest.py.
IN_PARALLEL := -m pytest --numprocesses=$(THREADS) --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help book pdf try test test-all notebooks fresh bench weights lint lock clean distclean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

book: weights  ## execute the chapters and render the book to _build/html/index.html
	$(BIN)/python book/build.py $(if $(PROFILE),--profile $(PROFILE))

try: weights  ## is it worth it for your own text? CORPUS=<folder or file> [MODEL=...] [MINUTES=...] [ARGS="--text-key body"]
	@test -n "$(CORPUS)" || { echo "make try CORPUS=<folder or file> [MODEL=smollm2-135m] [MINUTES=10]" >&2; exit 2; }
	$(BIN)/python -m tttnn try "$(CORPUS)" $(if $(MODEL),--model "$(MODEL)") $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

test: lint weights  ## lint, unit tests, the rendered book, and every chapter against its reference outputs
	OMP_NUM_THREADS=1 $(BIN)/python $(IN_PARALLEL) --maxprocesses=8
	OMP_NUM_THREADS=1 $(BIN)/python $(IN_PARALLEL) --maxprocesses=2 --nbval --nbval-current-env notebooks  # 4 GB each

test-all: export TTTNN_TESTS = all
test-all: test  ## the same with all random inputs and all kills

notebooks: weights  ## execute the chapters and refresh the reference outputs in notebooks/*.ipynb
	$(BIN)/python book/build.py --refresh

weights: $(READY)  ## fetch the pre-trained weights that the chapters use, unless they are there
	@$(BIN)/python -m tttnn fetch $(WEIGHTS)

pdf: $(READY)  ## print the book that `make book` built into _build/book.pdf
	$(BIN)/python book/pdf.py

fresh:  ## both commands in a bare Debian that mmdebstrap makes for them; TARGETS=book for one of them
	.ci/fresh.sh $(TARGETS)

bench: $(READY)  ## benchmarks against their baselines, as ratios; rows go to _build/bench (on a GPU: bench/gpu.py)
	$(BIN)/python bench/text_store.py --out _build/bench/text_store.json
	$(BIN)/python bench/index_kinds.py --out _build/bench/index_kinds.json
	$(BIN)/python bench/embedding.py --out _build/bench/embedding.json
	$(BIN)/python bench/load_models.py --out _build/bench/load_models.json
	$(BIN)/python bench/runner.py --out _build/bench/runner.json
	$(BIN)/python bench/loop.py --shape xs gpt2 --max-chunks 1 --out _build/bench/loop.json
	$(BIN)/python bench/operators.py --out _build/bench/operators.json
	$(BIN)/python bench/step.py --out _build/bench/step.json
	$(BIN)/python bench/neighbours.py --out _build/bench/neighbours.json

lint: $(READY)  ## style and layout of code, docstrings, types, and spelling of code and prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

lock: $(READY)  ## write both locks from pyproject.toml; LOCK=--upgrade for newest versions
	$(BIN)/python .ci/lock.py $(LOCK)

clean:  ## remove the rendered book and caches of tools; keep .venv and corpora
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis tttnn.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv, too, and the corpora and weights in .cache
	rm -rf .venv .cache

# Torch for CPUs where it is installed or an index that pip is set up for has it, as pip itself would choose.
# Three packages have no wheel: --use-pep517 has pips of before 23.1 build one, too, instead of running setup.py install.
# The stamp is the last thing written, so an interrupted installation is repeated.
$(READY): requirements.lock requirements-cuda.lock pyproject.toml
	test "$$(cat .venv/.place 2>/dev/null)" = "$(CURDIR)" && $(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  { $(PYTHON) -m venv --clear .venv && echo "$(CURDIR)" > .venv/.place; }
	lock=requirements-cuda.lock; \
	  ! $(BIN)/python -m pip index versions torch 2>/dev/null | grep -qF '$(TORCH)+cpu' || lock=requirements.lock; \
	  $(PIP) install --use-pep517 --require-hashes -r $$lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@
