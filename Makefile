# make quickstart   set everything up and run the main job in miniature
# make test         set everything up and run the tests
# make test-long    the tests of tens of seconds each that `make test` leaves out: clusters, kills, launchers, benchmarks
# make check        the tests of under a minute: no processes, no cluster, no training, no real data
# make fuzz         a hundred thousand malformed inputs
# make campaign     kill real studies again and again and compare what they end with (see docs/reliability.md)
# make package      sdist and wheel into dist/, checked as an index and its visitors would
# make docs         the documentation as a site, built strictly into site/
# make lint, make bench, make clean
#
# Settings: PYTHON (3.10 or newer), TORCH (another build or version of torch), VENV, JOBS (test processes side by side, 2),
# ARGS (more arguments for the command).

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
JOBS ?= 2
ARGS ?=

BIN := $(VENV)/bin
# One stamp for each choice of torch: another choice sets up again.
READY := $(VENV)/.ready-$(shell printf '%s' '$(TORCH)' | cksum | cut -d ' ' -f 1)

.PHONY: quickstart test test-long check lint package docs fuzz campaign bench setup clean
.DELETE_ON_ERROR:

quickstart: setup
	$(BIN)/stilts run quickstart $(ARGS)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'long and not slow' $(ARGS)

check: setup
	$(BIN)/python -m pytest tests/unit tests/families -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not processes and not data and not slow and not long and not gpu' $(ARGS)

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: setup
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt 'stilts-ds[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

# With an environment of its own: nothing of the project is installed to pack it.
package:
	$(PYTHON) -m venv $(VENV)-package
	$(VENV)-package/bin/python -m pip install -q -c constraints.txt -r requirements/package.txt
	rm -rf dist
	$(VENV)-package/bin/python -m build
	$(VENV)-package/bin/twine check --strict dist/*
	$(VENV)-package/bin/check-wheel-contents dist/*.whl
	$(VENV)-package/bin/auditwheel show dist/*.whl
	$(VENV)-package/bin/pyroma --min 9 .

fuzz: setup
	$(BIN)/python tests/tools/fuzz.py $(ARGS)

campaign: setup
	$(BIN)/python tests/tools/campaign.py $(ARGS)

bench: setup
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt faiss-cpu matplotlib
	$(BIN)/stilts bench $(ARGS)

setup: $(READY)

# torch goes first and alone, so that no other package decides which build is taken. What it brought is then kept; the
# pin of triton gives way to the one that this torch asks for.
$(READY): setup.py pyproject.toml constraints.txt $(wildcard kernels/stilts_kernels/topk/int8/*.cpp kernels/stilts_kernels/topk/int8/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is missing or older than Python 3.10; name another one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: $(PYTHON) -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	rm -f $(VENV)/.ready-*
	grep -vE '^(torch|triton)==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install -c $(VENV)/constraints.txt '$(TORCH)'
	$(BIN)/python -m pip list --format freeze | grep -E '^(torch|triton)==' >> $(VENV)/constraints.txt
	grep -q '^triton==' $(VENV)/constraints.txt || grep '^triton==' constraints.txt >> $(VENV)/constraints.txt
	$(BIN)/python -m pip install -c $(VENV)/constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-package build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
