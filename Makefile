# `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

OLDEST_VENV ?= .venv-oldest-$(notdir $(PYTHON))
NEWEST_VENV ?= .venv-newest-$(notdir $(PYTHON))
ONNX_VENV ?= .venv-onnx
NIR_VENV ?= .venv-nir
PEERS_VENV ?= .venv-peers
RELEASE_VENV ?= .venv-release

.PHONY: demo animation quick lint test test-all test-oldest test-newest docs test-browser test-onnx test-nir \
	test-peers release format clean

demo: $(VENV)/.installed
	$(RUN) examples/digits.py

# The picture of the README and of the site's first page: a trained network at work.
animation: $(VENV)/.installed
	PYTHONPATH=docs:examples $(RUN) -m generate.animation examples/pretrained/digits

PYTEST = -m pytest -n 2 --dist worksteal

# What to run while you work: a few layers, and tests that take little time.
quick: $(VENV)/.installed
	$(VENV)/bin/ruff check
	$(RUN) $(PYTEST) --tier quick

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

# What has to pass.
test: lint
	$(RUN) $(PYTEST)

# Every layer in everything, examples, benchmarks, the site, a browser if there is one, and many
# random trials that differ from run to run.
test-all: lint
	$(RUN) -m pip install --quiet --editable '.[browser]'
	$(RUN) $(PYTEST) --tier all -rs

# `test` with the oldest versions that pyproject.toml declares, and with the newest that exist for
# this Python: `make test-newest PYTHON=python3.12`.
test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/python $(PYTEST)

test-newest: $(NEWEST_VENV)/.installed
	$(NEWEST_VENV)/bin/python $(PYTEST)

# The site, in docs/_build/html; open index.html there.
docs: $(VENV)/.installed
	JAX_PLATFORMS=cpu $(VENV)/bin/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs docs/_build/html

# The interactive page, in a Chromium found on the PATH.
test-browser: $(VENV)/.installed
	$(RUN) -m pip install --quiet --editable '.[browser]'
	$(RUN) -m pytest -rs --tier all tests/test_interactive_browser.py tests/test_live_browser.py tests/test_site.py

# In an environment of its own, since jax2onnx does not know the newest jax.
test-onnx: $(ONNX_VENV)/.installed
	$(ONNX_VENV)/bin/python -m pytest tests/test_onnx.py

# In an environment of its own, since nirtorch needs torch.
test-nir: $(NIR_VENV)/.installed
	$(NIR_VENV)/bin/python -m pytest tests/test_nir_torch.py

# In an environment of its own, since the peers need torch.
PEERS = examples/benchmarks/requirements-torch.txt examples/benchmarks/requirements-torch-nodeps.txt

test-peers: $(PEERS_VENV)/.installed
	$(PEERS_VENV)/bin/python -m pytest --tier all -k 'peers or coming or snntorch' tests/test_peers.py tests/test_peers_pages.py tests/test_docs.py

$(PEERS_VENV)/.installed: pyproject.toml $(PEERS)
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS_VENV)/bin/python -m pip install --quiet --requirement $(word 1,$(PEERS))
	$(PEERS_VENV)/bin/python -m pip install --quiet --no-deps --requirement $(word 2,$(PEERS))
	$(PEERS_VENV)/bin/python -m pip install --quiet --editable . 'pytest>=8.3' 'optax>=0.2.5'
	touch $@

# What a release uploads, built and checked from a clean commit. Nothing is uploaded.
release: $(RELEASE_VENV)/.installed
	$(RELEASE_VENV)/bin/python tools/release.py

# Environments of their own, and what is installed into each.
$(OLDEST_VENV)/.installed: NEEDS = --editable '.[test]' $$($(PYTHON) -c "import tomllib; \
	print(*(need.replace('>=', '==') for need in tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))")
$(NEWEST_VENV)/.installed: NEEDS = --upgrade --editable '.[test]'
$(ONNX_VENV)/.installed: NEEDS = --editable '.[onnx]' 'pytest>=8.3'
$(NIR_VENV)/.installed: NEEDS = --editable '.[nirtorch]' 'pytest>=8.3'
$(RELEASE_VENV)/.installed: NEEDS = --group release

$(foreach venv,$(OLDEST_VENV) $(NEWEST_VENV) $(ONNX_VENV) $(NIR_VENV) $(RELEASE_VENV),$(venv)/.installed): pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet $(NEEDS)
	touch $@

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) .venv-oldest-* .venv-newest-* $(ONNX_VENV) $(NIR_VENV) $(PEERS_VENV) \
		$(RELEASE_VENV) demo dist docs/_build
