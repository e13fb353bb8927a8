#!/usr/bin/env bash
# TensorFlow's CNN tutorial on the command line; listing.py does the same in Python.
#   bash examples/command_line.sh [--limit 2000 ...]    (passes the options to train)
set -euo pipefail

run=${RUN_DIR:-runs/command-line}
cifar-trainer prepare --dataset "${DATASET:-cifar10}"
cifar-trainer train --dataset "${DATASET:-cifar10}" --run-dir "$run" "$@"
cifar-trainer evaluate "$run"
cifar-trainer export "$run"
echo "Look at the run with: tensorboard --logdir $(dirname "$run")"
