#!/usr/bin/env python3
"""TorchDEQ's solvers on the maps of `bench solvers`, to compare with.

    torchdeq_solvers.py cost key=value...       ns per unknown and iteration, the map excluded
    torchdeq_solvers.py problems key=value...   evaluations of the map, and microseconds a solve

Prints JSON: {"version": ..., NAME: [one value a repetition]}.  The keys are those of `settings`
below.  Written for TorchDEQ 0.1.0 (pip install torchdeq).  Exit status: 77 when it or PyTorch is
missing.
"""
import json
import math
import sys
import time
from importlib.metadata import version

try:
    import torch
    from torchdeq.solver.anderson import anderson_solver
    from torchdeq.solver.broyden import broyden_solver
    from torchdeq.solver.fp_iter import fixed_point_iter
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

settings = dict(n=196608, evaluations=50, repetitions=5, seconds=1.0, threads=1, dtype="f32",
                tol=1e-8, max_iter=1000)
for word in sys.argv[2:]:
    key, value = word.split("=")
    kind = type(settings[key])
    settings[key] = value if kind is str else kind(float(value))
s = type("Settings", (), settings)
dtype = torch.float32 if s.dtype == "f32" else torch.float64


class Timed:
    """A map on the clock."""

    def __init__(self, f):
        self.f, self.seconds, self.calls = f, 0.0, 0

    def __call__(self, z):
        began = time.perf_counter()
        fz = self.f(z)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        return fz


def measured(solve, f, z):
    """One list each: seconds a solve, of them in f, evaluations; the first solve does not count."""
    solve(f, z)
    whole, inside, calls = [], [], []
    for _ in range(s.repetitions):
        timed, solves, began = Timed(f), 0, time.perf_counter()
        while solves == 0 or time.perf_counter() - began < s.seconds / s.repetitions:
            answer = solve(timed, z)
            solves += 1
        whole.append((time.perf_counter() - began) / solves)
        inside.append(timed.seconds / solves)
        calls.append(timed.calls / solves)
    return whole, inside, calls, answer


def cost():
    i = torch.arange(s.n, dtype=torch.float64)
    rate = (0.999 * (2 * i / (s.n - 1) - 1)).to(dtype)
    shift = torch.sin(i).to(dtype)
    k = s.evaluations
    solvers = {
        "picard": lambda f, z: fixed_point_iter(f, z, max_iter=k, tol=0),
        "anderson5": lambda f, z: anderson_solver(f, z, max_iter=k, tol=0, m=5),
        "anderson10": lambda f, z: anderson_solver(f, z, max_iter=k, tol=0, m=10),
        "broyden20": lambda f, z: broyden_solver(f, z, max_iter=k - 1, tol=0, LBFGS_thres=20),
    }
    answer = {}
    for name, solve in solvers.items():
        whole, inside, calls, _ = measured(solve, lambda z: rate * z + shift,
                                           torch.zeros(1, s.n, dtype=dtype))
        answer[name] = [1e9 * (a - b) / (c * s.n) for a, b, c in zip(whole, inside, calls)]
    return answer


def analytic(u):
    x, y, z = u[:, 0], u[:, 1], u[:, 2]
    return torch.stack((torch.cos((y - 1) * z) / 3 + 1 / 6,
                        torch.sqrt(x * x + torch.sin(z) + 1.06) / 9 + 0.9,
                        -torch.exp(-x * (y - 1)) / 20 - (10 * math.pi - 3) / 60), 1)


def roberts(y):
    d1 = 0.1 * (-0.04 * y[:, 0] + 1e4 * y[:, 1] * y[:, 2])
    d3 = 0.1 * 3e2 * y[:, 1] * y[:, 1]
    return torch.stack((d1 + 1, -d1 - d3, d3), 1)


def noise(i, j):
    x = math.sin((12 * i + 7 * j + 1) * 78.233) * 43758.5453
    return 2 * (x - math.floor(x)) - 1


def bratu(u, grid=81, lam=6.0):
    h = 1 / (grid - 1)
    u = u.view(grid, grid)
    x = torch.linspace(0, 1, grid, dtype=u.dtype)
    x, y = x[None, :], x[:, None]
    g = 2 * x * (1 - x) + 2 * y * (1 - y) - lam * torch.exp(x * (1 - x) * y * (1 - y))
    inner = torch.zeros_like(u)
    inner[1:-1, 1:-1] = u[1:-1, 1:-1]
    F = 4 * u
    F[1:-1, 1:-1] -= (inner[1:-1, :-2] + inner[1:-1, 2:] + inner[:-2, 1:-1] + inner[2:, 1:-1]
                      + h * h * (lam * torch.exp(u) + g)[1:-1, 1:-1])
    return (u - F).view(1, -1)


def bratu_guess(grid=81):
    distance = [min(i, grid - 1 - i) for i in range(grid)]
    return [6 / 7 * math.sqrt(min(a, b) / (grid - 1)) for a in distance for b in distance]


def problems():
    slow = torch.linspace(0, 1, 4096, dtype=torch.float64) ** 4 * 0.99
    shift = torch.tensor([noise(j, 5) for j in range(4096)], dtype=torch.float64)
    n = 20
    matrix = torch.tensor([[2 * noise(i, j) * math.sqrt(3 / n) + (i == j) for j in range(n)]
                           for i in range(n)], dtype=torch.float64)
    side = torch.tensor([noise(i, 501) for i in range(n)], dtype=torch.float64)
    # name: map, guess, Anderson's memory
    cases = {
        "analytic": (analytic, [0.1, 0.1, -0.1], 2),
        "roberts": (roberts, [1.0, 0, 0], 2),
        "linear": (lambda z: z @ matrix.t() + side, [0.0] * n, 50),
        "slow": (lambda z: slow * z + shift, [0.0] * 4096, 5),
        "bratu": (bratu, bratu_guess(), 30),
    }
    answer = {}
    for name, (f, guess, m) in cases.items():
        def solve(g, z, m=m):
            return anderson_solver(g, z, max_iter=s.max_iter, tol=s.tol, m=m)
        z = torch.tensor([guess], dtype=torch.float64)
        try:
            whole, _, calls, found = measured(solve, f, z)
            converged = float(found[2]["abs_lowest"]) <= s.tol
        except RuntimeError:  # a singular normal matrix
            calls, whole, converged = [], [], False
        answer[name + " evaluations"] = calls if converged else []
        answer[name + " us"] = [1e6 * t for t in whole] if converged else []
    return answer


def main():
    torch.set_num_threads(s.threads)
    answer = {"version": f"TorchDEQ {version('torchdeq')} on PyTorch {torch.__version__}"}
    with torch.no_grad():
        answer |= cost() if sys.argv[1] == "cost" else problems()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
