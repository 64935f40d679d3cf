# make venv    .venv with all that is locked, and repro itself (editable)
# make demo    run the digits experiment, replay it, print the verdict
# make test    lint, then the whole test suite
# make lint    import contracts, ruff, mypy
# make lock    resolve pyproject.toml anew into lockfiles/ (UPGRADE=1: the newest of everything)
# make clean   remove .venv, caches and built things; the store .repro/ stays

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.made

.PHONY: venv demo test lint lock clean

venv: $(STAMP)

# Byte code is compiled here once: under PYTHONDONTWRITEBYTECODE the imports would never write any.
$(STAMP): pyproject.toml repro_hook.pth lockfiles/cpu.txt lockfiles/public.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or print("warning: the locks were made for Python 3.11, this is %d.%d" % v, file=sys.stderr)'
	$(PYTHON) -m venv .venv
	lock=$$(lockfiles/choose $(BIN)/pip) && $(BIN)/pip install --quiet --require-hashes -r $$lock
	$(BIN)/pip install --quiet --no-build-isolation --no-deps -e .
	$(BIN)/python -m compileall -q repro
	touch $@

demo: venv
	$(BIN)/repro run experiments/digits/experiment.yaml
	$(BIN)/repro replay last

lint: venv
	$(BIN)/lint-imports
	$(BIN)/ruff check
	$(BIN)/mypy

# Three at once on two cores: for a fifth of their time tests wait, for limits, locks and packages.
test: lint
	$(BIN)/python -m pytest -n 3

lock:
	lockfiles/lock $(PYTHON)

clean:
	rm -rf .venv build dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.repro/*' -prune -exec rm -rf {} +
