# Everything that there is to do with this project; `make run` and `make test` are all that a user needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := src/zonal/api/control.proto src/zonal/cri/api/runtime.proto
STUBS := $(foreach proto,$(PROTOS:.proto=),$(proto)_pb2.py $(proto)_pb2_grpc.py $(proto)_pb2.pyi)

.PHONY: run test test-unit test-lab test-long lint format bench bench-storage bench-network bench-service bench-kubernetes bench-simulation bench-streaming conformance soak setup setup-dev clean

run: setup
	@$(BIN)/zonal run --rm debian:13 uname -a

test: test-unit test-lab

# A test that hangs is ended, and says where it was; no time is a promise.
test-unit: setup-dev
	$(BIN)/pytest --timeout=300 tests/unit

test-lab: setup-dev
	$(BIN)/pytest -m "not long" --timeout=900 --durations=20 -rs tests/lab

# Images with nginx, redis, PostgreSQL and an application of Python, races, crashes, and labs on full disks and of
# ordinary users: three quarters of an hour more.
test-long: setup-dev
	$(BIN)/pytest -m long --timeout=3600 --durations=20 -rs tests/lab

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What SPECIFICATION.md promises, measured; BENCH="--from-nothing" adds a fresh clone taken through `make run`.
bench: setup
	$(BIN)/python -m benchmarks.run $(BENCH)

bench-storage: setup
	$(BIN)/python -m benchmarks.storage $(BENCH)

bench-network: setup
	$(BIN)/python -m benchmarks.network $(BENCH)

bench-service: setup
	$(BIN)/python -m benchmarks.service $(BENCH)

# Pods in zones beside containerd's with runc; BENCH="--only start" for a part: start, many, network, web.
bench-kubernetes: setup
	$(BIN)/python -m benchmarks.kubernetes $(BENCH)

# zonald on a stand-in for Xen, up to 2,000 zones: no Xen, no lab, no root; a quarter of an hour.
bench-simulation: setup
	$(BIN)/python -m benchmarks.simulation $(BENCH)

# A command's output through the CRI's streaming server to Kubernetes' own client: no Xen, no lab; needs Go.
bench-streaming: setup
	$(BIN)/python -m benchmarks.streaming

# CRI's own validation suite on zonald's socket in the lab; CONFORMANCE="--focus REGEX" for a part of it.
conformance: setup-dev
	$(BIN)/python -m tests.conformance $(CONFORMANCE)

# 500 runs one after another, and nothing may be left of any of them; ten minutes of pulls, runs and prunes at once.
soak: setup-dev
	ZONAL_SOAK=500 ZONAL_RACE=600 $(BIN)/pytest tests/lab/test_leaks.py tests/unit/images/test_races.py tests/lab/test_image_races.py

setup: $(VENV)/.run $(STUBS)

setup-dev: $(VENV)/.dev $(STUBS)

# The Debian packages come first: without root or sudo this says exactly what is missing.
$(VENV)/.run: pyproject.toml tools/setup
	tools/setup "$(PYTHON)" $(VENV)
	touch $@

$(VENV)/.dev: $(VENV)/.run
	tools/setup "$(PYTHON)" $(VENV) dev
	touch $@

$(STUBS) &: $(PROTOS) $(VENV)/.run
	$(BIN)/python -m grpc_tools.protoc --proto_path=src --python_out=src --pyi_out=src --grpc_python_out=src $(PROTOS)

clean:
	rm -rf $(VENV) build bench-results $(STUBS)
