# Everything runs in the project's own environment, which the first target creates.
# `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help train photos predict evaluate serve tensorboard test torture mutants bench new lint format clean

help:  ## List these targets.
	@awk -F ':.*## ' '/^[a-z]+:.*##/ { printf "%-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: .venv/installed  ## Train configs/base.cfg; ARGS="--any_flag=..." adds flags.
	$(BIN)/python train.py --flagfile=configs/base.cfg $(ARGS)

photos: .venv/installed  ## Draw coloured shapes and train configs/photos.cfg on them.
	$(BIN)/python scripts/draw_shapes.py shapes
	$(BIN)/python train.py --flagfile=configs/photos.cfg --data_dir=shapes --model_dir=out-photos $(ARGS)

predict: .venv/installed  ## Classify the images in samples/digits.npy.
	$(BIN)/python predict.py --model_dir out --input samples/digits.npy $(ARGS)

evaluate: .venv/installed  ## Evaluate the model in out/ on its test images.
	$(BIN)/python evaluate.py --model_dir out --split test $(ARGS)

serve: .venv/installed-serve  ## Serve the model in out/ on http://127.0.0.1:8080.
	$(BIN)/python serve.py --model_dir out $(ARGS)

tensorboard: .venv/installed  ## Show the runs in logs/.
	$(BIN)/tensorboard --logdir logs

test: lint  ## Lint, check the types and run the tests.
	$(BIN)/python -m pytest $(ARGS)

torture: .venv/installed  ## Kill and resume a run again and again.
	$(BIN)/python -m benchmarks.torture $(ARGS)

mutants: .venv/installed-dev  ## Measure which changes of the code the tests notice.
	$(BIN)/python -m benchmarks.mutants $(ARGS)

bench: .venv/installed-bench  ## Measure the README's figures; ARGS="--data_dir=...".
	$(BIN)/python -m benchmarks $(ARGS)

new: .venv/installed-dev  ## Start a project of your own: NAME=flowers DIR=../flowers.
	$(BIN)/python scripts/new_project.py --name="$(NAME)" --dir="$(DIR)" --without="$(WITHOUT)"

lint: .venv/installed-dev  ## Lint and check the types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev  ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and caches; models and logs stay.
	rm -rf .venv build *.egg-info .*_cache
	find . -name __pycache__ -type d -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e .
	@touch $@

.venv/installed-%: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e '.[$*]'
	@touch .venv/installed $@
