# make demo: the whole way of one image, everything embedded.   make test: the tests.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/installed

.PHONY: demo test test-long check bench bench-scale peers fuzz hostile chaos crash-points soak lock env-example wheel \
	image-locks images deploy-test clean

demo: $(SETUP)
	@$(BIN)/python -m worker.demo

test: $(SETUP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What takes minutes: a browser, training runs, real faults. CI runs it after `make test`.
test-long: $(SETUP)
	$(BIN)/python -m pytest -m long -n 2 --dist loadfile

# ruff, mypy, licences, known weaknesses: what a change must pass before anything is run.
check: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pip-licenses >/dev/null
	$(BIN)/python deploy/audit.py
	$(BIN)/python -m pytest -q tests/test_structure.py tests/test_docs.py tests/deploy/test_files.py

# The tests against real peers (Orthanc, DCMTK, validators) alone; they skip what is not installed.
peers: $(SETUP)
	$(BIN)/python -m pytest -m 'peers and not long' -rs

# A thousand mutated files through the listener and the workers; FUZZ_SEED chooses others.
fuzz: $(SETUP)
	FUZZ_FILES=1000 $(BIN)/python -m pytest -q -s tests/chaos/test_mutations.py

# Everything breaks while 2,000 studies come, on PostgreSQL and SQLite: docs/RELIABILITY.md.
CHAOS ?= --studies 2000 --faults 200 --minutes 36
chaos: $(SETUP)
	$(BIN)/python -m tests.chaos $(CHAOS)

# The listener killed 50 times at each point of its write path.
crash-points: $(SETUP)
	CHAOS_CRASHES=50 $(BIN)/python -m pytest -q -o timeout=0 tests/chaos/test_crash_points.py

# Memory, descriptors and latency of every process at full rate; var/soak.json.
SOAK_MINUTES ?= 30
soak: $(SETUP)
	$(BIN)/python -m tests.chaos.soak --minutes $(SOAK_MINUTES)

# Hostile peers against the listener, half a minute of each kind, and 10,000 mutated data sets.
hostile: $(SETUP)
	HOSTILE_S=30 HOSTILE_FILES=10000 $(BIN)/python -m pytest -q -s -m long \
		tests/chaos/test_hostile_peers.py

# Timings beside peers, to the terminal and var/bench.json.
bench: $(SETUP)
	$(BIN)/python -m tests.bench

# How cost grows: databases of up to a million studies; 1, 2 and 4 inference workers.
bench-scale: $(SETUP)
	$(BIN)/python -m tests.bench.scale --workers 1 --workers 2 --workers 4
	$(BIN)/python -m tests.bench.scale

# Pin every dependency anew; names no registry. What an image installs is taken out of the same pins.
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--python-version 3.11 --custom-compile-command "make lock"
lock: $(SETUP)
	$(COMPILE) --upgrade --extra cpu --extra train --extra demo --group dev \
		pyproject.toml --output-file requirements.lock
	$(MAKE) image-locks UPGRADE=--upgrade

image-locks: $(SETUP)
	$(COMPILE) $(UPGRADE) --constraint requirements.lock --group listener --output-file deploy/locks/listener.txt
	$(COMPILE) $(UPGRADE) --constraint requirements.lock pyproject.toml --output-file deploy/locks/base.txt
	$(COMPILE) $(UPGRADE) --constraint requirements.lock --extra cpu pyproject.toml --output-file deploy/locks/cpu.txt
	$(COMPILE) $(UPGRADE) --constraint requirements.lock --extra gpu pyproject.toml --output-file deploy/locks/gpu.txt
	$(COMPILE) $(UPGRADE) --constraint requirements.lock --group image --output-file deploy/locks/image.txt

# deploy/env.example, out of the settings' own words.
env-example: $(SETUP)
	$(BIN)/python deploy/render_env.py

# dist/*.whl and dist/*.tar.gz, with the bundle in them.
wheel: $(SETUP)
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

# The images that need no GPU; IMAGE_PREFIX and IMAGE_TAG name them.
IMAGE_PREFIX ?= cxr-worker
IMAGE_TAG ?= latest
IMAGES ?= listener dicom-worker web inference-cpu
images:
	for target in $(IMAGES); do \
		docker build --file deploy/Dockerfile --target $$target --tag $(IMAGE_PREFIX)/$$target:$(IMAGE_TAG) \
			--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" . || exit 1; done

# Images, compose, twenty studies, kills, back-up, upgrade and rollback, with a real engine: see deploy/README.md.
deploy-test: $(SETUP)
	$(BIN)/python -m pytest -m deploy -s tests/deploy

$(SETUP): requirements.lock pyproject.toml deploy/setup_venv.py
	@$(PYTHON) deploy/setup_venv.py .venv

clean:
	rm -rf .venv .venv.lock dist var .mypy_cache .ruff_cache .pytest_cache .hypothesis
