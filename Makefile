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

# The folder figures/ must not stand for the target of that name.
.PHONY: help reproduce figures book fuzz bench test cluster-test lint clean setup

help:
	@echo "make reproduce   the paper's tables with their verdicts, and the quickstart: results/ (minutes)"
	@echo "make test        check everything: style, types, unit tests, notebooks"
	@echo "make book        notebooks and docstrings as a website: results/book/html/index.html"
	@echo "make cluster-test   a batch through SLURM (root; apt install slurm-wlm munge)"
	@echo "make lint        style and types only"
	@echo "make fuzz        2000 hostile inputs of each kind (half an hour)"
	@echo "make clean       remove what these made"
	@echo "make bench       measure against the plain recipe, into figures/speed (an hour or more)"
	@echo "The first of them installs what is needed into .venv and takes some minutes longer."

tables = .venv/bin/d2ue reproduce all --seeds 5 --dataset $(1) --scores figures/scores/$(1).zip --clusters figures/$(1)/audit/clusters.csv --out $(2)/$(1)

# The paper's tables from the kept scores of real images, what they say of its claims, then a training to watch.
reproduce: setup
	$(call tables,brain-mri,results)
	$(call tables,kermany-cxr,results)
	.venv/bin/d2ue reproduce quickstart --out results/quickstart
	.venv/bin/d2ue claims results/brain-mri results/kermany-cxr --out results/claims.md
	@echo "Tables and pictures: results/brain-mri, results/kermany-cxr. The training: results/quickstart."

# The tables of figures/, drawn anew from the scores that are kept there.
figures: setup
	$(call tables,brain-mri,figures)
	$(call tables,kermany-cxr,figures)
	.venv/bin/d2ue claims figures/brain-mri figures/kermany-cxr --out figures/claims.md
	.venv/bin/d2ue reproduce audit --out results/audit
	cp results/audit/cleaned/* figures/brain-mri/cleaned
	.venv/bin/d2ue reproduce baselines --out figures/baselines
	rm -r results/audit figures/baselines/*.ipynb figures/baselines/parameters.json figures/baselines/*.md figures/*/table*/*.ipynb figures/*/ablations/*.ipynb

# Hostile files, settings and archives: 2000 cases of each kind (half an hour); make test tries 60.
fuzz: setup
	OMP_NUM_THREADS=1 D2UE_FUZZ=2000 $(python) -m pytest -n auto --maxprocesses 4 tests/test_fuzz.py tests/test_folder.py tests/test_reliability.py tests/test_engines.py tests/test_pages.py -k "fuzz or bombs or memory or killed or papermill"

# The pages and the docstrings as a website to read: results/book/html/index.html
book: setup
	$(python) .book/build.py

# Against the plain recipe, on this machine: leave it alone meanwhile.
bench: setup
	$(python) tests/benchmarks/bench.py --out figures/speed
	$(python) tests/benchmarks/changes.py figures/speed/changes.csv
	$(python) -m pytest tests/benchmarks/bench_steps.py -o "python_functions=bench_*" --benchmark-columns=min,median,max,rounds

# Files side by side, as many as there are cores (four at most: a notebook takes a gigabyte), each on one thread;
# notebooks first, since they take longest and have few tests, by which files would be put in order.
test: lint
	OMP_NUM_THREADS=1 $(python) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -p tests.notebook_memory --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg notebooks tests

# A batch through a real SLURM of one node, started for it (root; Debian: apt install slurm-wlm munge).
cluster-test: setup
	$(python) -m pytest -q tests/cluster/check_slurm.py

lint: setup
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy

clean:
	if [ -e .venv/.made-by-setup ]; then mv .venv .venv.old; fi
	rm -rf .venv.old .venv.lock results/quickstart results/brain-mri results/kermany-cxr results/claims.md .pytest_cache .ruff_cache .hypothesis .benchmarks
	find d2ue tests notebooks -type d -name __pycache__ -prune -exec rm -rf {} +
	rmdir results 2>/dev/null || :

setup:
	@.ci/setup
