# Everything below works in the project's own environment, which the first target to
# need it makes. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help train predict evaluate serve tensorboard test torture bench lint format clean

help:  ## lists these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

train: .venv/installed  ## trains configs/base.cfg; ARGS="--any_flag=..." adds flags
	$(BIN)/python train.py --flagfile=configs/base.cfg $(ARGS)

predict: .venv/installed  ## says what is on samples/digits.npy
	$(BIN)/python predict.py --model_dir out --input samples/digits.npy $(ARGS)

evaluate: .venv/installed  ## measures the model in out/ on its test images
	$(BIN)/python evaluate.py --model_dir out --split test $(ARGS)

serve: .venv/installed-serve  ## serves the model in out/ on http://127.0.0.1:8080
	$(BIN)/python serve.py --model_dir out $(ARGS)

tensorboard: .venv/installed  ## shows the runs in logs/
	$(BIN)/tensorboard --logdir logs

test: lint  ## lints, checks the types and runs the tests
	$(BIN)/python -m pytest $(ARGS)

torture: .venv/installed  ## kills and resumes a run again and again
	$(BIN)/python scripts/torture.py $(ARGS)

bench: .venv/installed-bench  ## measures the README's figures; ARGS="--data_dir=..."
	$(BIN)/python -m benchmarks $(ARGS)

lint: .venv/installed-dev  ## lints and checks the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev  ## formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## removes the environment and caches; models and logs stay
	rm -rf .venv build *.egg-info .*_cache
	find . -name __pycache__ -type d -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e .
	@touch $@

.venv/installed-serve: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e '.[serve]'
	@touch .venv/installed $@

.venv/installed-bench: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e '.[bench,serve]'
	@touch .venv/installed $@

.venv/installed-dev: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch .venv/installed $@
