#!/usr/bin/env python3
"""Our safetensors files against the reference library (pip install safetensors numpy).

    safetensors_reference.py check FILE     FILE, written by us, holds the sample
    safetensors_reference.py write FILE     writes the sample for us to read

The sample is that of tests/test_safetensors.c, which runs this.  Exit status: 0 agrees, 1 differs,
77 a package is missing.
"""
import sys

try:
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def sample():
    f32 = np.arange(15, dtype=np.float32) / 8
    f32[1] = -0.0
    f32[2] = np.inf
    return {
        "f32": f32.reshape(3, 1, 5),
        "f64": np.array([0.1, 5e-324]),
        'i32 "quoted" \u00e9': np.array([-(2**31), -1, 2**31 - 1], dtype=np.int32),
        "scalar": np.array(-(2**63), dtype=np.int64),
        "empty": np.zeros((0, 7), dtype=np.float32),
        "deep": f32.reshape(1, 3, 1, 1, 1, 1, 1, 5),
    }


def differences(path):
    want = sample()
    with safe_open(path, framework="numpy") as file:
        if set(file.keys()) != set(want):
            yield f"names: {sorted(file.keys())}"
            return
        for name, w in want.items():
            got = file.get_tensor(name)
            same = got.dtype == w.dtype and got.shape == w.shape and got.tobytes() == w.tobytes()
            if not same:
                yield f"{name}: {got.dtype} {got.shape} {got.ravel()}"


def main(action, path):
    if action == "write":
        save_file(sample(), path, metadata={"format": "np"})
        return 0
    found = list(differences(path))
    for line in found:
        print(f"{path}: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("check", "write"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
