# The two commands:  make train  and  make test.  Both set everything up first, once.
#   make train JOB=jobs/imdb.toml NP=2 ARGS="train.epochs=1 run.dir=/scratch/runs"
#   make test ARGS="-m 'not slow' -k checkpoint"

NP ?= 4
JOB ?=
ARGS ?=

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup train test chaos trackers lint clean

# As after `source .venv/bin/activate`: horovodrun must find its own python and mpirun first.
in_venv = export VIRTUAL_ENV="$(CURDIR)/.venv" PATH="$(CURDIR)/.venv/bin:$$PATH" &&

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /make \1 \t/p' $(MAKEFILE_LIST) | expand -t 14

setup:  ## virtual environment .venv, dependencies, Horovod built for the installed torch (needs a C++ compiler)
	@tools/setup.sh

train: setup  ## train on NP workers (4) the job JOB (none: the demo job), with ARGS as further arguments
	@$(in_venv) start="horovodrun -np $(NP) python"; if [ ! -x .venv/bin/horovodrun ]; then \
		echo "train: no Horovod in .venv, so workers use torch's transport: docs/launchers.md" >&2; \
		start="python -m distsent.launch --nproc-per-node $(NP)"; fi; \
		python tools/show_run.py $$start -m distsent.train $(JOB) $(ARGS)

test: setup  ## run the whole test suite, with ARGS as further pytest arguments
	@$(in_venv) python -m pytest -n 2 $(ARGS)

chaos: setup  ## hundreds of kills, signals, lost pods and damaged files (two to three hours on 2 cores: all over Horovod, then over torch), then the table of what became of them
	@$(in_venv) export RECORD="$${RECORD:-$(CURDIR)/chaos.jsonl}" && python -m pytest -m chaos -s tests/chaos tests/hosts tests/parallel tests/cluster $(ARGS); code=$$?; \
		TEST_TRANSPORT=torch python -m pytest -m "chaos or parallel" -s tests/chaos tests/parallel $(ARGS) || code=$$?; \
		python -m tests.chaos.table "$$RECORD"; exit $$code

trackers: setup  ## test MLflow (with a server), Weights & Biases and Trackio as they are, in .venv-trackers
	@$(in_venv) tools/trackers.sh $(ARGS)

lint: setup  ## ruff and mypy, changing nothing
	@$(in_venv) ruff check && ruff format --check && mypy

clean:  ## remove .venv and tool caches; built Horovod wheels stay in ~/.cache/distsent
	rm -rf .venv .venv-trackers .venv.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
