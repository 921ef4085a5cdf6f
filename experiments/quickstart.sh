#!/bin/sh
# Trains the quickstart models, implicit and explicit, on the same tokens, evaluates both, and prints
# one table.  Leaves runs/quickstart-{implicit,explicit}/ with evaluate.json.
set -eu
build=${BUILD:-build}
for kind in implicit explicit; do
  "$build/train" "configs/quickstart_$kind.yaml" --overwrite
done
for kind in implicit explicit; do
  "$build/evaluate" "runs/quickstart-$kind" --json "runs/quickstart-$kind/evaluate.json" >/dev/null
done
# evaluate.json has one row a line: mode by mode, each with its lengths in the same order
cat <<'END'

S3 word problem, trained at length 16: accuracy over the last 10 tokens
(iterations: evaluations of f a token, or a sequence when simultaneous, took to converge)

length   explicit   implicit, sequential (iterations)   implicit, simultaneous (iterations)
END
awk '
  function value(key) { match($0, "\"" key "\": [^,}]*"); split(substr($0, RSTART, RLENGTH), part, ": "); return part[2] }
  /"sequential": \[/ { mode = "sequential" }
  /"simultaneous": \[/ { mode = "simultaneous" }
  /"length"/ {
    n = value("length"); kind = FILENAME ~ /-implicit/ ? "implicit" : "explicit"
    if (!(n in seen)) { seen[n] = 1; order[++count] = n }
    accuracy[kind, mode, n] = value("accuracy_last10"); iterations[kind, mode, n] = value("iterations_mean")
  }
  END {
    for (i = 1; i <= count; i++) {
      n = order[i]
      printf "%6d   %8.4f   %21.4f (%10.1f)   %23.4f (%10.1f)\n", n, accuracy["explicit", "sequential", n], \
        accuracy["implicit", "sequential", n], iterations["implicit", "sequential", n], \
        accuracy["implicit", "simultaneous", n], iterations["implicit", "simultaneous", n]
    }
  }' runs/quickstart-implicit/evaluate.json runs/quickstart-explicit/evaluate.json
cat <<END

Next:
  $build/evaluate runs/quickstart-implicit deq.evaluate.window=8 evaluate.lengths=[256]   # sliding window
  $build/train configs/word_problem/a5_implicit.yaml                # A5, the smallest non-solvable group
  $build/train configs/word_problem/s3_implicit.yaml name=mine deq.gradient=ift train.lr=1e-3
  $build/train --keys                                               # every configuration key
  $build/jacobian_check                                             # the state-to-state Jacobian theorem
END
