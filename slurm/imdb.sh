#!/usr/bin/env bash
# DistilBERT on IMDB:  sbatch [--nodes=8] slurm/imdb.sh [section.key=value ...]
#
# One worker per task, one task per GPU. The global batch is that of the job file, for any number of
# workers.
#SBATCH --job-name=imdb
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

[ -f slurm/run.sh ] || { echo "slurm: submit this in the checkout (of slurm/run.sh)" >&2; exit 2; }
source slurm/run.sh
train jobs/imdb.toml "$@"
