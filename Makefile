# `make train` and `make test` each set up everything they need in .venv.
# PYTHON names the interpreter to start from (3.11 or later).

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test check proto clean

# Trains LeNet on scikit-learn's handwritten digits.
train: .venv/ready-digits
	$(BIN)/python -m jaxcaffe.train configs/digits.py $(ARGS)

# Runs the tests, one worker per core.
test: .venv/ready-test
	$(BIN)/python -m pytest -n auto $(ARGS)

# Lint, format and types.
check: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Generates jaxcaffe/proto/caffe_pb2.py from caffe.proto.
proto: .venv/ready-test
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
		jaxcaffe/proto/caffe.proto

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

.venv/ready-%: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv
