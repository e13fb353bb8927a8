#!/usr/bin/env bash
# Prepare, train, evaluate, export: CIFAR-10, or the synthetic data set if CIFAR-10 is not available.
#   SOURCE=PATH         a copy of CIFAR-10, as for `prepare --source`
#   DEMO_EPOCHS=N       default 3, which takes a few minutes on two cores
#   CIFAR_TRAINER_DATA  the data folder, by default ./data
set -euo pipefail

epochs=${DEMO_EPOCHS:-3}
run=demo/run-$(date +%Y%m%d-%H%M%S)
dataset=cifar10

step() { printf '\n== %s\n' "$*"; }

step "prepare"
if [ -n "${SOURCE:-}" ]; then
  # Fail if the given source does not work.
  cifar-trainer prepare --source "$SOURCE"
elif ! cifar-trainer prepare; then
  dataset=synthetic
  echo
  echo "CIFAR-10 is not available. The demo continues with the built-in SYNTHETIC data set: drawn images,"
  echo "whose accuracy says nothing about CIFAR-10. If you have a copy of CIFAR-10: make demo SOURCE=PATH"
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
  $run/evaluation/test/report.html      the report: accuracy and errors on one page
Learning curves:
  ${VIRTUAL_ENV:-.venv}/bin/tensorboard --logdir demo
EOF
