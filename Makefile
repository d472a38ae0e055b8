# Two commands to know: `make serve` and `make test`.  Everything lives in .venv/.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
OUT ?= build/smollm2-135m
BIN := .venv/bin
CHROMIUM := $(shell which chromium chromium-browser google-chrome 2>/dev/null)
PROMTOOL := $(shell which promtool 2>/dev/null)
TIERS := not slow and not gpu and not guidellm$(if $(PROMTOOL),, and not prometheus)$(if $(CHROMIUM),, and not browser)

.PHONY: help serve test check check-deploy image-test bench family lock
.DEFAULT_GOAL := serve

.venv/cpu: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/pip install --quiet -c requirements/cpu.txt torch  # what its CUDA build runs on, if that is what pip sees
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/cpu requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps -r requirements/dev.txt
	@touch $@

help: ## these lines
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1: /p' Makefile

serve: .venv/cpu ## install, prepare the default family, serve it; Ctrl-C stops
	$(BIN)/boomerang serve --host $(HOST) --port $(PORT)

test: .venv/dev ## every test except slow, gpu and guidellm; browser and Prometheus tiers if installed
	$(BIN)/python -m pytest -m "$(TIERS)"

check: .venv/dev ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/dev ## the benchmarks of the engine, into build/bench: report.md and report.png
	$(BIN)/python -m bench

check-deploy: .venv/dev ## charts, Dockerfile, alerts, the end of a pod; needs Debian's package prometheus
	@command -v promtool >/dev/null || { echo "promtool is missing: apt-get install prometheus"; exit 1; }
	$(BIN)/python -m pytest tests/deploy

image-test: .venv/dev ## build the CPU image without a registry and run it confined; as root, 20 GB
	$(BIN)/python scripts/image_test.py --folder build/image

family: .venv/cpu build/prose.txt ## make the default family again, into OUT; FLAGS change its recipe
	cd build && ../$(BIN)/boomerang make --preset smollm2-135m --out $(abspath $(OUT)) $(FLAGS)

build/prose.txt: scripts/fetch_prose.py
	mkdir -p build
	$(PYTHON) scripts/fetch_prose.py --out $@ --cache build/packages

lock: .venv/cpu ## resolve the pinned requirements anew
	$(BIN)/python requirements/lock.py
