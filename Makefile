# Every target sets up what it needs. `make help` lists them; CI runs `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv links large packages from its cache, so a second checkout costs seconds.
UV := $(BIN)/uv
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup browser build demo test test-rust test-python lint fmt bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.5" "maturin>=1.9,<2"
	$(UV) pip install --quiet --python $(BIN)/python --group dev
	# ATB's probe is two libraries in this wheel; what its Python side depends on is not needed.
	$(UV) pip install --quiet --python $(BIN)/python --no-deps "mindstudio-probe>=26.2,<27"
	touch $@

setup: $(VENV)/.ready ## Make the virtual environment in .venv

build: setup ## Build the extension (release) and install the package, editable, with its extras
	PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/maturin develop --quiet --uv --release -E torch,report,demo
	@# uv leaves compiling to the first import, which PYTHONDONTWRITEBYTECODE turns into every import.
	@cd $(VENV)/lib/python3*/site-packages && $(CURDIR)/$(BIN)/python -m compileall -q numpy ml_dtypes polars rich typer shellingham typing_extensions.py
	@$(BIN)/python -m compileall -q python

demo: build ## Capture a real LLM twice, plant a fault, find it (ARGS=--tiny: a random small model)
	$(BIN)/python -m llmdbg.demo $(ARGS)

test: lint test-rust test-python ## Everything CI checks

test-rust: ## Unit and property tests of the Rust crates
	cargo test --quiet -p llmdbg-core

# The HTML report is tested in a real browser, which PyPI does not carry.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

test-python: build browser ## Tests of the package (ARGS="-k name" selects)
	$(BIN)/python -m pytest $(ARGS)

lint: build ## Formatting, clippy, ruff, mypy
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(BIN)/ruff format --check python tests benches
	$(BIN)/ruff check python tests benches
	$(BIN)/mypy
	@# The extension's hand-written stub against the extension itself.
	$(BIN)/python -m mypy.stubtest llmdbg._core --ignore-unused-allowlist --allowlist rust/py/stubtest-allow.txt

fmt: setup ## Format Rust and Python
	cargo fmt --all
	$(BIN)/ruff format python tests benches
	$(BIN)/ruff check --fix --exit-zero python tests benches

bench: build ## Speed and memory, as ratios within one run
	$(BIN)/python benches/run.py $(ARGS)

clean: ## Remove what the targets above made
	rm -rf $(VENV) target demo_out .pytest_cache .mypy_cache .ruff_cache
