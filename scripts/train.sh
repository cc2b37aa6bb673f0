#!/usr/bin/env bash
# Trains the recipes NAME... one after another, each in runs/NAME, and exports each as runs/NAME/model.onnx:
#
#     scripts/train.sh PSLD_TRAINING MINUTES NAME...
#
# MINUTES is the time that all of it may take, 0 for no limit. A run that is there already goes on from its newest
# checkpoint: where the time was too short, the same command does the next piece, until every run is finished.
set -euo pipefail
training=$1 minutes=$2
shift 2
for name in "$@"; do
  limit=()
  if [ "$minutes" != 0 ]; then
    left=$((60 * minutes - SECONDS))
    if [ "$left" -lt 10 ]; then echo "$name: no time left; the same command goes on" >&2; exit 0; fi
    limit=(--time-budget "${left}s")
  fi
  if compgen -G "runs/$name/checkpoints/*.safetensors" > /dev/null; then
    "$training" resume "runs/$name" "${limit[@]}"
  else
    "$training" train "training/recipes/$name.toml" --out "runs/$name" "${limit[@]}"
  fi
  "$training" export "runs/$name" -o "runs/$name/model.onnx"
done
