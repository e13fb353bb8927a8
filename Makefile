# Everything runs in a virtual environment of its own, made where it is first needed.
VENV ?= .venv
# The first Python that this package runs on; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --no-input
DEVELOPED = $(VENV)/.installed-dev
INSTALLED = $(VENV)/.installed

.PHONY: help install demo test fuzz check format gpu-check clean

help: ## Show this.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Install cifar-trainer into .venv.
	@echo "Ready: $(VENV)/bin/cifar-trainer --help"

demo: $(INSTALLED) ## Prepare, train, evaluate, export; in minutes. [SOURCE=cifar-10-python.tar.gz] [DEMO_EPOCHS=4]
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" SOURCE="$(SOURCE)" DEMO_EPOCHS="$(DEMO_EPOCHS)" bash examples/demo.sh

test: $(DEVELOPED) ## Run the tests. [PYTEST="-k export -x"]
	$(VENV)/bin/python -m pytest -n auto --dist loadfile $(PYTEST)

fuzz: $(DEVELOPED) ## Read damaged files, other ones each time. [FUZZ_EXAMPLES=1000]
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),1000) $(VENV)/bin/python -m pytest -n auto tests/data/test_fuzz.py

check: $(DEVELOPED) ## Lint and check types; changes nothing.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(DEVELOPED) ## Put the code into form.
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

gpu-check: $(INSTALLED) ## Measure an NVIDIA GPU, in ten minutes at most; needs CIFAR-10 in data/.
	@$(PIP) install --quiet --editable '.[gpu]'
	$(VENV)/bin/python benchmarks/gpu_check.py --output gpu-check

clean: ## Delete what was built and cached; .venv, data and runs stay.
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find cifar_trainer tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); TensorFlow is large, the first time takes some minutes."
	@$(PIP) install --quiet --editable .
	@touch $@

$(DEVELOPED): pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV), with what the tests need; the first time takes some minutes."
	@$(PIP) install --quiet --upgrade 'pip>=25.1'  # Older ones know no dependency groups.
	@$(PIP) install --quiet --editable '.[all]' --group dev
	@touch $@ $(INSTALLED)
