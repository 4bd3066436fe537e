#!/bin/bash
# A search over several nodes: sbatch --nodes=4 --gpus-per-node=8 slurm.sh my.yaml --set training.num_processes=8
# Submit it in the folder that holds the data and searches/, on storage that all nodes share, with `msft` on the path.
#SBATCH --job-name=msft
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time limit all nodes get SIGTERM; they save together. Submitted again, the search goes on; a
# preempted or requeued job does so by itself.
#SBATCH --signal=TERM@120
srun --kill-on-bad-exit=1 bash -c '
  if [ "$SLURM_NODEID" = 0 ]; then exec msft search "$@"; fi
  exec msft follow "$@"' msft "$@" --set training.machines="$SLURM_JOB_NUM_NODES"
