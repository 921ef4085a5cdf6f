#!/bin/sh
# Trains the quickstart models, implicit and explicit, on the same tokens, and compares them.  Leaves
# runs/quickstart-{implicit,explicit}/ and the comparison, runs/quickstart/.
set -eu
build=${BUILD:-build}
for kind in implicit explicit; do
  "$build/train" "configs/quickstart_$kind.yaml" --overwrite
done
"$build/compare" runs/quickstart-implicit runs/quickstart-explicit evaluate.sequences=64 \
  --output runs/quickstart
cat <<END

Next:
  $build/evaluate runs/quickstart-implicit deq.evaluate.window=8 evaluate.lengths=[256]   # sliding window
  $build/train configs/word_problem/a5_implicit.yaml                # A5, the smallest non-solvable group
  $build/train configs/word_problem/s3_implicit.yaml configs/deq/ift.yaml name=mine
  $build/train --keys                                               # every configuration key
  $build/jacobian_check                                             # the state-to-state Jacobian theorem
END
