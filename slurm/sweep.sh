#!/usr/bin/env bash
# Search over jobs:  sbatch [--array=0-15] slurm/sweep.sh JOB.toml SPACE.toml [section.key=value ...]
#
# A job array: all tasks work on one sweep. Each trains one trial after another, on its node's GPUs.
# Options of python -m distsent.sweep may follow: docs/sweeps.md
#SBATCH --job-name=sweep
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log

[ -f slurm/run.sh ] || { echo "slurm: submit this in the checkout (of slurm/run.sh)" >&2; exit 2; }
source slurm/run.sh
sweep "$@"
