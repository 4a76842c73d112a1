#!/usr/bin/env bash
# BERT on a thousand tweets:  sbatch slurm/tweets.sh [section.key=value ...]
#
# The dataset is small: one node is enough. One worker per task, one task per GPU.
#SBATCH --job-name=tweets
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=00:30:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

[ -f slurm/run.sh ] || { echo "slurm: submit this in the checkout (of slurm/run.sh)" >&2; exit 2; }
source slurm/run.sh
train jobs/tweets.toml "$@"
