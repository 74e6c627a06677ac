# Two commands do everything from a fresh clone: `make demo` and `make test`.
# CONSTRAINTS= (empty) installs the newest releases instead of the ones that continuous integration runs against.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
PIN = $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: demo test install quality style clean

demo: .venv/.installed
	$(BIN)/optimum-cli mixq demo --output demo-output

test: .venv/.tested
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

quality: .venv/.quality
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/.quality
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $(PIN) --editable .
	touch $@

.venv/.tested: .venv/.installed
	$(PIP) install --quiet $(PIN) --editable ".[test]"
	touch $@

.venv/.quality: .venv/.installed
	$(PIP) install --quiet $(PIN) --editable ".[quality]"
	touch $@

clean:
	rm -rf .venv build dist demo-output *.egg-info
