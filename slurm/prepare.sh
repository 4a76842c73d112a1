#!/usr/bin/env bash
# Tokenize a dataset on CPUs:  sbatch slurm/prepare.sh jobs/imdb.toml [section.key=value ...]
#
# Use the same keys as for training: data.* and model.name select the token store.
#SBATCH --job-name=prepare
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

[ -f slurm/run.sh ] || { echo "slurm: submit this in the checkout (of slurm/run.sh)" >&2; exit 2; }
source slurm/run.sh
prepare "$@"
