#!/usr/bin/env bash
# Prepare, train, evaluate, export: on CIFAR-10 where it can be had, else on the synthetic set.
#   SOURCE=PATH       where CIFAR-10 is, as `prepare --source` takes it
#   DEMO_EPOCHS=N     3 if unset: a few minutes on two cores
#   CIFAR_TRAINER_DATA  the data folder, if it is not ./data
set -euo pipefail

epochs=${DEMO_EPOCHS:-3}
run=demo/run-$(date +%Y%m%d-%H%M%S)
dataset=cifar10

step() { printf '\n== %s\n' "$*"; }

step "prepare"
if [ -n "${SOURCE:-}" ]; then
  # A source that was named must do: a mistake in it is not papered over.
  cifar-trainer prepare --source "$SOURCE"
elif ! cifar-trainer prepare; then
  dataset=synthetic
  echo
  echo "CIFAR-10 cannot be had here. The demo goes on with the built-in SYNTHETIC set: drawn"
  echo "pictures, whose accuracy says nothing about CIFAR-10. With CIFAR-10 at hand: make demo SOURCE=PATH"
  cifar-trainer prepare --dataset synthetic
fi

step "train ($epochs epochs on $dataset)"
cifar-trainer train --dataset "$dataset" --epochs "$epochs" --run-dir "$run"

step "evaluate"
cifar-trainer evaluate "$run"

step "export"
cifar-trainer export "$run"

step "done"
cat <<EOF
Trained on: $dataset
  $run/model.keras                      the model, for Keras
  $run/export/saved_model/              the model, for TensorFlow Serving
  $run/evaluation/test/report.html      how good it is, on one page
The curves:
  ${VIRTUAL_ENV:-.venv}/bin/tensorboard --logdir demo
EOF
