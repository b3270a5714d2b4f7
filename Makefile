# make demo and make test need only Python 3.10 to 3.12, make and git; the first run installs everything into .venv.
# Another interpreter: make setup PYTHON=/path/to/python3.11. More pytest options: make test ARGS="-k coreset".

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3.10 python3)

# Exits with 3 where the version is not supported and with 4 where Debian has left out what makes an environment.
CHECK := import sys; (3, 10) <= sys.version_info[:2] <= (3, 12) or sys.exit(3); \
         from importlib.util import find_spec; find_spec("venv") and find_spec("ensurepip") or sys.exit(4)

# Not empty when the environment is missing, half made, or has lost its interpreter to a system upgrade.
BROKEN := $(shell $(BIN)/python -c "import pip" >/dev/null 2>&1 || echo broken)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all style bench clean FORCE

help:
	@echo "make demo      open the app on the bundled sample (PORT=7860)"
	@echo "make test      run the tests, without the slow ones (ARGS=...)"
	@echo "make test-all  run all tests"
	@echo "make style     ruff check and ruff format --check"
	@echo "make bench     run the benchmarks of eval/"
	@echo "make setup     only create .venv and install (PYTHON=...)"
	@echo "make clean     remove .venv and caches"

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m anomalyhub demo $(if $(PORT),--port $(PORT))

# Files of tests share out the cores; each test has one thread, so that none waits for another's.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(STAMP)
	$(PARALLEL) -m "not slow" $(ARGS)

test-all: $(STAMP)
	$(PARALLEL) $(ARGS)

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(STAMP)
	$(BIN)/python eval/bench.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# which -a: a pyenv shim that cannot run may hide a real interpreter of the same name further down the PATH.
# The stamp lies inside .venv and is written last, so a deleted or half-finished environment has none.
$(STAMP): requirements.txt pyproject.toml $(if $(BROKEN),FORCE)
	@rm -f $@
	@if [ -n "$(BROKEN)" ]; then \
	    found=; lacking=; \
	    for name in $(CANDIDATES); do \
	        for python in $$(which -a "$$name" 2>/dev/null || echo "$$name"); do \
	            "$$python" -c '$(CHECK)' >/dev/null 2>&1 && code=0 || code=$$?; \
	            case $$code in 0) found=$$python; break 2;; 4) lacking="$$lacking $$python";; esac; \
	        done; \
	    done; \
	    if [ -z "$$found" ] && [ -n "$$lacking" ]; then \
	        echo "venv or ensurepip is missing from:$$lacking; run: apt-get install python3-venv" >&2; exit 1; \
	    elif [ -z "$$found" ]; then \
	        echo "No Python 3.10 to 3.12 runs here (tried $(CANDIDATES));" \
	             "install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$found. The first set-up takes a few minutes and about 6 GB of disk."; \
	    rm -rf $(VENV) && "$$found" -m venv $(VENV); \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@
