# `make demo` runs the main job, `make test` the checks of every change, `make test-all` all tests.
# Each sets everything up first.

VENV := .venv
BIN := $(VENV)/bin
# Tiny networks run several times faster on one thread; the tests run in two processes instead.
ONE_THREAD := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# Some images set it; every process that starts would then compile all that it imports again.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-slow test-long test-all explore studies check format lock clean

demo: $(VENV)/.core
	$(BIN)/limbeck run few_labels

test: check
	$(PYTEST) --doctest-modules -m "not slow"

# What starts a process or a browser, trains a recipe, or takes more than a few seconds.
test-slow: $(VENV)/.dev
	$(PYTEST) -m "slow and not long" tests

# Whole recipes and tutorials of more than 20 seconds each, and the smoke form of every study.
test-long: $(VENV)/.dev
	$(PYTEST) -m long tests/docs tests/e2e/test_recipes.py tests/studies

test-all: test test-slow test-long

# Every published claim, measured and judged; what is stored is not measured again.
studies: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/limbeck study --all --index --out docs/studies

# The tests of drawn inputs again, with new draws, and every law with more seeds.
explore: $(VENV)/.dev
	LIMBECK_DRAWS=explore $(PYTEST) -m hypothesis
	LIMBECK_DRAWS=explore $(PYTEST) tests/losses/test_laws.py

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Exact versions for every supported Python and system, without the address of any index.
lock:
	uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-header --no-annotate --upgrade -o constraints.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .hypothesis

# uv, since it takes builds of torch and torchvision that fit together; pip brings it where it is absent.
$(VENV)/.venv:
	@if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python '>=3.11,<3.14' $(VENV); \
	else python3 -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; fi
	@touch $@

$(VENV)/.core: $(VENV)/.venv pyproject.toml constraints.txt
	@uv=$$(command -v uv || echo $(BIN)/uv); \
	$$uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[evaluate]'
	@touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml constraints.txt
	@uv=$$(command -v uv || echo $(BIN)/uv); \
	$$uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[vision,text,audio,lightning,energy,prune,sweep,evaluate,sign,dev]'
	@# What looks at the pages in a browser; without npm that test is left out and says so.
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix $(VENV)/npm axe-core@4.10.3 >/dev/null || true; fi
	@touch $@ $(VENV)/.core
