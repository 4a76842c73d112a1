#!/usr/bin/env bash
# Tokenise a corpus once, before anyone pays for GPUs:  sbatch slurm/prepare.sh jobs/imdb.toml [section.key=value ...]
#
# Give it the same keys as the training: data.* and model.name decide which store is made, and which one training opens.
#SBATCH --job-name=prepare
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

[ -f slurm/run.sh ] || { echo "slurm: submit this in the checkout, where slurm/run.sh is" >&2; exit 2; }
source slurm/run.sh
prepare "$@"
