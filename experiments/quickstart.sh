#!/bin/sh
# Trains the quickstart models, implicit and explicit, and evaluates both.
set -eu
build=${BUILD:-build}
for kind in implicit explicit; do
  "$build/train" "configs/quickstart_$kind.yaml" --overwrite
done
for kind in implicit explicit; do
  "$build/evaluate" "runs/quickstart-$kind" --json "runs/quickstart-$kind/evaluate.json"
done
