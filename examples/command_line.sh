#!/usr/bin/env bash
# The article's example by the command line; listing.py beside this does the same as a script.
#   bash examples/command_line.sh [--limit 2000 ...]    (options go to train)
set -euo pipefail

run=${RUN_DIR:-runs/command-line}
cifar-trainer prepare --dataset "${DATASET:-cifar10}"
cifar-trainer train --dataset "${DATASET:-cifar10}" --run-dir "$run" "$@"
cifar-trainer evaluate "$run"
cifar-trainer export "$run"
echo "Look at the run with: tensorboard --logdir $(dirname "$run")"
