# One door for habits. `make` lists what there is.
# PYTHON=/path/to/python3.11 picks the interpreter; ARGS=... goes to pytest (`make test`) or the benchmark (`make bench`).

PYTHON ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo up test check docs secrets bench format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## create .venv with everything in it

demo: $(INSTALLED) ## meta-train a small model, search its fastest adaptation, show the result (about two minutes)
	$(BIN)/lambda-search run examples/glyphs_5way_1shot.yaml --output demo-result.json

up: $(INSTALLED) ## run the whole service here until Ctrl-C, and say where to open it
	@$(BIN)/lambda-search up

test: $(INSTALLED) ## run the tests, or some of them: make test ARGS="tests/workers -k judging"
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest --ignore tests/system --numprocesses auto --maxprocesses 8
	$(BIN)/python -m pytest tests/system --numprocesses 2
else
	$(BIN)/python -m pytest $(ARGS)
endif

check: $(INSTALLED) ## lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED) ## build the documentation site in build/docs; a warning or a broken link is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

secrets: ## make the secrets of docker compose, once
	deploy/make-secrets

bench: $(INSTALLED) ## measure adaptation, judging, meta-training, statistics, search and service (more than an hour)
	$(BIN)/python -m benchmarks.adaptation $(ARGS)
	$(BIN)/python -m benchmarks.judging $(ARGS)
	$(BIN)/python -m benchmarks.latency_model $(ARGS)
	$(BIN)/python -m benchmarks.meta_training $(ARGS)
	$(BIN)/python -m benchmarks.error_rates $(ARGS)
	$(BIN)/python -m benchmarks.search $(ARGS)
	$(BIN)/python -m benchmarks.service $(ARGS)

format: $(INSTALLED) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean: ## remove the environment, caches and demo outputs
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis demo-result.*
	find search_service workers migrations tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew from its recipe whenever that changes; an interrupted installation leaves no stamp.
$(INSTALLED): pyproject.toml constraints.txt
	@found=; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Lambda Search needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is not,none is on the PATH)." >&2; \
	  echo "Install one, or name it: make install PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "creating environment $(VENV) with $$($$found --version) (about a minute)"; \
	"$$found" -m venv $(VENV)
	@echo "installing packages"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,dashboard,local,dev,docs,telemetry]'
	@touch $@
	@echo "environment ready"
