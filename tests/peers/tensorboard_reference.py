#!/usr/bin/env python3
"""Our TensorBoard event files against TensorBoard's own reader (pip install tensorboard).

    tensorboard_reference.py RUN    every number of RUN/metrics.jsonl is there, each step once

tests/test_training.c runs this.  Exit status: 0 agrees, 1 differs, 77 a package is missing.
"""
import json
import math
import os
import struct
import sys

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def rounded(x):
    """What float32 keeps of a double; null stands for a number that is not finite."""
    return struct.unpack("f", struct.pack("f", math.nan if x is None else float(x)))[0]


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def main(run):
    want = {}
    with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            for key, value in line.items():
                if key != "step":
                    want.setdefault(key, []).append((line["step"], rounded(value)))
    events = EventAccumulator(run, size_guidance={"scalars": 0})
    events.Reload()
    got = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    wrong = []
    if set(got) != set(want):
        wrong.append(f"tags {sorted(got)}, expected {sorted(want)}")
    for tag in set(got) & set(want):
        if [s for s, _ in got[tag]] != [s for s, _ in want[tag]]:
            wrong.append(f"{tag}: steps {[s for s, _ in got[tag]]}")
        elif not all(same(a, b) for (_, a), (_, b) in zip(got[tag], want[tag])):
            wrong.append(f"{tag}: {got[tag]}, expected {want[tag]}")
    print("\n".join(wrong) or f"{len(got)} tags agree")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
