#!/usr/bin/env python3
"""The Jacobian of one token of an implicit Mamba-2, in numpy, from the parameters alone.

    jacobian_reference.py FILE     FILE: what jacobian_check --save wrote (pip install safetensors numpy)

Reads the parameters and the point (u, conv_state, h), finds the fixed point by its own iteration and
Newton's method, differentiates its own implementation of the block by complex step, and compares z
and every matrix of FILE with what it finds.  Independent of the C code: formulas from the papers
(arXiv:2405.21060 for Mamba-2, arXiv:2502.07827 for the implicit model).

Exit status: 0 agrees to 1e-10, 1 differs, 77 a package is missing.
"""
import sys

try:
    import numpy as np
    from safetensors.numpy import load_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TOLERANCE = 1e-10
STEP = 1e-30


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    """log(1 + exp x); for complex x the real part decides, so that nothing overflows."""
    big = np.maximum(x.real, 0)
    e = np.exp(-big)
    total = e + np.exp(x - big)
    return big + np.log(total)


class Block:
    """f and h' of one token, on rows: z (R,D), h (R,S)."""

    def __init__(self, t):
        self.t = t
        self.layers, self.H, self.P, self.N = t["h"].shape
        self.E = self.H * self.P
        self.conv_dim = t["conv_state"].shape[1]
        self.G = (self.conv_dim - self.E) // (2 * self.N)
        self.eps = t["norm_eps"][0]
        for name in [n for n in t if n.endswith("weight_v")]:  # weight norm
            v, g = t[name], t[name[:-1] + "g"]
            length = np.sqrt((v.reshape(len(v), -1) ** 2).sum(-1)).reshape(g.shape)
            t[name[:-2]] = g * v / length

    def norm(self, x, w):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * w

    def gate(self, y, z, w):
        first = self.t["norm_before_gate"][0] != 0
        s = y if first else y * silu(z)
        groups = s.reshape(len(s), self.G, -1)
        s = (groups / np.sqrt(np.mean(groups**2, axis=-1, keepdims=True) + self.eps)).reshape(s.shape)
        s = s * w
        return s * silu(z) if first else s

    def mixer(self, x, u, h, layer):
        p = {k.split("mixer.")[1]: v for k, v in self.t.items() if f"layers.{layer}.mixer." in k}
        E, H, P, N, G = self.E, self.H, self.P, self.N, self.G
        zxbcdt = x @ p["in_proj.weight"].T + p.get("in_proj.bias", 0)
        if u is not None:
            zxbcdt = zxbcdt + u
        F = (zxbcdt.shape[-1] - 2 * E - 2 * G * N - H) // 2  # a gated MLP beside the mixer
        z0, x0, gate, xBC, dt = np.split(
            zxbcdt, np.cumsum([F, F, E, self.conv_dim]), axis=-1)
        window = np.concatenate(
            [np.broadcast_to(self.t["conv_state"][layer][:, 1:], (len(x), self.conv_dim, self.taps())),
             xBC[:, :, None]], axis=-1)
        xBC = silu((window * p["conv1d.weight"][:, 0]).sum(-1) + p.get("conv1d.bias", 0))
        xs, B, C = np.split(xBC, [E, E + G * N], axis=-1)
        xs = xs.reshape(-1, H, P)
        B = np.repeat(B.reshape(-1, G, N), H // G, axis=1)
        C = np.repeat(C.reshape(-1, G, N), H // G, axis=1)
        delta = softplus(dt + p["dt_bias"])
        low, high = self.t["dt_limit"]
        delta = np.where(delta.real < low, low, np.where(delta.real > high, high, delta))
        decay = np.exp(-np.exp(p["A_log"]) * delta)
        if self.t["A_negative"][0]:
            decay = 2 * decay - 1
        v = delta[..., None, None] * xs[..., None] * B[:, :, None, :]
        new = decay[..., None, None] * h + v
        skip = p["D"].reshape(H, -1)
        y = (new * C[:, :, None, :]).sum(-1) + skip * xs
        out = self.gate(y.reshape(-1, E), gate, p["norm.weight"])
        out = np.concatenate([silu(z0) * x0, out], axis=-1)
        out = out @ p["out_proj.weight"].T + p.get("out_proj.bias", 0)
        spread = np.broadcast_to(decay[..., None, None], new.shape)
        return out, new, spread, v

    def taps(self):
        return self.t["conv_state"].shape[2] - 1

    def step(self, z, h, u):
        """f(z), h', Lambda and v, the last three flattened as layer, head, p, n."""
        t, parts = self.t, []
        h = h.reshape(-1, self.layers, self.H, self.P, self.N)
        for layer in range(self.layers):
            name = f"backbone.layers.{layer}."
            out, *more = self.mixer(self.norm(z, t[name + "norm.weight"]), u, h[:, layer], layer)
            z = z + t["residual"][0] * out
            parts.append(more)
            if name + "mlp.fc1.weight" in t:
                value, gate = np.split(
                    self.norm(z, t[name + "norm2.weight"]) @ t[name + "mlp.fc1.weight"].T, 2, axis=-1)
                out = (value * silu(gate)) @ t[name + "mlp.fc2.weight"].T
                z = z + t["residual"][0] * out
        flat = [np.stack([p[i] for p in parts], 1).reshape(len(z), -1) for i in range(3)]
        return (self.norm(z, t["backbone.norm_f.weight"]), *flat)


def derivatives(block, z, h, u):
    """By complex step: d(f, h', Lambda, v)/dz and d(f, h')/dh."""
    D, S = z.size, h.size
    by_z = block.step(z + 1j * STEP * np.eye(D), np.broadcast_to(h, (D, S)), u)
    by_h = block.step(np.broadcast_to(z, (S, D)), h + 1j * STEP * np.eye(S), u)
    return [a.imag.T / STEP for a in by_z] + [a.imag.T / STEP for a in by_h[:2]]


def newton(block, z, h, u):
    for _ in range(50):
        f = block.step(z[None], h[None], u)[0][0]
        r = f - z
        if np.linalg.norm(r) < 4e-16 * np.linalg.norm(f):
            break
        df = block.step(z + 1j * STEP * np.eye(z.size), np.broadcast_to(h, (z.size, h.size)), u)[0]
        z = z + np.linalg.solve(np.eye(z.size) - df.imag.T / STEP, r)
    return z, np.linalg.norm(block.step(z[None], h[None], u)[0][0] - z) / np.linalg.norm(z)


def fixed_point(block, saved, h, u):
    """From 0, by damped iteration and Newton; where that ends elsewhere, from the saved one."""
    z = np.zeros_like(saved)
    for _ in range(400):
        z = 0.2 * z + 0.8 * block.step(z[None], h[None], u)[0][0]
    found, residual = newton(block, z, h, u)
    if residual < 1e-13 and np.abs(found - saved).max() < 1e-6:
        return found, residual, "own iteration"
    return (*newton(block, saved, h, u), "Newton from the saved z")


def main(path):
    t = load_file(path)
    block, h, u = Block(t), t["h"].ravel(), t["u"][0]
    z, residual, how = fixed_point(block, t["z"][0], h, u)
    df_dz, dh_dz, dLambda, dv, df_dh, dh_dh = derivatives(block, z, h, u)
    J = dh_dh + dh_dz @ np.linalg.solve(np.eye(z.size) - df_dz, df_dh)
    explicit = derivatives(block, t["x"][0], h, None)[5]
    want = {
        "z": z, "df_dz": df_dz, "df_dh": df_dh, "dh_dz": dh_dz, "dh_dh": dh_dh,
        "dLambda_dz": dLambda, "dv_dz": dv, "J_theorem": J, "J_complex_step": J, "J_adjoint": J,
        "J_explicit": explicit,
    }
    print(f"{path}: fixed point by {how}, residual {residual:.1e}")
    failed = residual > 1e-12
    for name, matrix in want.items():
        got = t[name][0] if name == "z" else t[name]
        error = np.abs(got - matrix).max() / np.abs(matrix).max()
        bad = not error <= TOLERANCE
        failed |= bad
        print(f"{name:16s} relative difference {error:.1e}{'  FAIL' if bad else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
