#!/usr/bin/env bash
# Four encoders on emotion:  sbatch [--array=0,3%1] slurm/emotion.sh [section.key=value ...]
#
# A job array: each encoder is a separate run. To compare them:
# python -m distsent.report runs/emotion-{distilbert,bert,roberta,albert}
#SBATCH --job-name=emotion
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log

[ -f slurm/run.sh ] || { echo "slurm: submit this in the checkout (of slurm/run.sh)" >&2; exit 2; }
source slurm/run.sh
encoders=(distilbert bert roberta albert)
train "jobs/emotion-${encoders[SLURM_ARRAY_TASK_ID]:-$SLURM_ARRAY_TASK_ID}.toml" "$@"
