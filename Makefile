# Short names for the commands; everything they do is in d2ue/, notebooks/ and .ci/. Written for GNU make 3.81 too (macOS).
# PYTHON=python3.12 make test    chooses the Python that .venv is made with

python = .venv/bin/python

# Nothing is read from or written to folders of the person who calls: what the tools keep for themselves stays in .venv.
export IPYTHONDIR := $(CURDIR)/.venv/var/ipython
export JUPYTER_CONFIG_DIR := $(CURDIR)/.venv/var/jupyter
export JUPYTER_DATA_DIR := $(CURDIR)/.venv/var/jupyter
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.venv/var/jupyter/runtime
export MPLCONFIGDIR := $(CURDIR)/.venv/var/matplotlib
# Modules of another Python must not be found before those of .venv.
unexport PYTHONHOME PYTHONPATH

.PHONY: help reproduce test lint clean setup

help:
	@echo "make reproduce   train small ensembles and show what they find: results/quickstart (minutes)"
	@echo "make test        check everything: style, unit tests, notebooks"
	@echo "make lint        the style only"
	@echo "make clean       remove what these made"
	@echo "The first of them installs what is needed into .venv and takes some minutes longer."

# Longer than what the notebook does by itself, which is what `make test` checks.
longer = -p epochs=10 -p batch_size=32 -p n_train=0 -p n_test=0

reproduce: setup
	.venv/bin/d2ue reproduce quickstart --out results/quickstart $(longer)

test: lint
	$(python) -m pytest --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg tests notebooks

lint: setup
	$(python) -m ruff check
	$(python) -m ruff format --check

clean:
	if [ -e .venv/.made-by-setup ]; then mv .venv .venv.old; fi
	rm -rf .venv.old .venv.lock results/quickstart .pytest_cache .ruff_cache .hypothesis .benchmarks
	find d2ue tests notebooks -type d -name __pycache__ -prune -exec rm -rf {} +
	rmdir results 2>/dev/null || :

setup:
	@.ci/setup
