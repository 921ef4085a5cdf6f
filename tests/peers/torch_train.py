#!/usr/bin/env python3
"""A training step of the implicit Mamba-2 model in plain PyTorch, to compare speeds with.

    torch_train.py key=value...      prints JSON: {"unroll": [tokens/s, ...], "phantom": [...]}

The keys are those of `settings` below; device=cuda compile=1 matmul=tf32: on a GPU.  `bench train`
runs this with the same shapes, batch and number of solver iterations, threads and BLAS kernels.
The same work is done: dropout masks, weight norm once a step, a residual each solver iteration,
clipping, AdamW.  The SSD is the chunked form by matrix products.  With equal parameters its
gradients agree with ours to 4e-6 (float32); ours returns the iterate that was last evaluated, this
one takes one more step.
Exit status: 77 when PyTorch is missing.
"""
import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

settings = dict(
    device="cpu", matmul="ieee", compile=0, threads=2, repetitions=5, seconds=1.0, B=64, T=16, V=6, D=64, layers=1, E=128, P=32, N=16, G=1,
    W=4, chunk=64, eps=1e-5, weight_norm=0, dropout=0.0, lr=1e-3, beta1=0.9, beta2=0.95, decay=0.0,
    clip=1.0, unroll_iterations=4, unroll_damping=0.8, max_iter=24, forward_damping=1.0,
    phantom_steps=4, phantom_damping=0.8)
for word in sys.argv[1:]:
    key, value = word.split("=")
    settings[key] = value if isinstance(settings[key], str) else type(settings[key])(float(value))
s = type("Settings", (), settings)
H = s.E // s.P
conv_dim = s.E + 2 * s.G * s.N
d_in_proj = 2 * s.E + 2 * s.G * s.N + H


def rmsnorm(x, w):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + s.eps) * w


class Weight(torch.nn.Module):
    """A matrix U(+-1/sqrt(fan_in)), with weight norm g v/||v|| by row where asked for."""

    def __init__(self, fan_in, *shape):
        super().__init__()
        v = (torch.rand(*shape) * 2 - 1) * fan_in**-0.5
        self.v = torch.nn.Parameter(v)
        self.g = torch.nn.Parameter(v.flatten(1).norm(dim=1)) if s.weight_norm else None

    def forward(self):
        if self.g is None:
            return self.v
        norm = self.v.flatten(1).norm(dim=1)
        return self.v * (self.g / norm).view(-1, *[1] * (self.v.dim() - 1))


class Mixer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        ones, parameter = torch.ones, torch.nn.Parameter
        self.norm, self.gate_norm, self.skip = map(parameter, (ones(s.D), ones(s.E), ones(H)))
        self.in_proj, self.out_proj = Weight(s.D, d_in_proj, s.D), Weight(s.E, s.D, s.E)
        self.conv = Weight(s.W, conv_dim, 1, s.W)
        self.conv_bias = parameter((torch.rand(conv_dim) * 2 - 1) * s.W**-0.5)
        self.A_log = parameter((torch.rand(H) * 15 + 1).log())
        delta = (torch.rand(H) * 4.6 - 6.9).exp()
        self.dt_bias = parameter(delta + torch.log(-torch.expm1(-delta)))

    def weights(self):
        return self.in_proj(), self.conv(), self.out_proj()

    def forward(self, z, u, weights, mask):
        in_proj, conv, out_proj = weights
        zxbcdt = rmsnorm(z, self.norm) @ in_proj.t() + u
        gate, xBC, dt = zxbcdt.split([s.E, conv_dim, H], -1)
        x, Bm, C = F.silu(convolve(xBC, conv, self.conv_bias)).split([s.E, s.N, s.N], -1)
        y = ssd(x.unflatten(-1, (H, s.P)), Bm, C, F.softplus(dt + self.dt_bias), self.A_log,
                self.skip)
        out = rmsnorm(y * F.silu(gate), self.gate_norm) @ out_proj.t()
        return z + (out if mask is None else out * mask)


def convolve(x, w, b):
    """x (B,T,C).  A compiler fuses the sum of shifted tokens with what surrounds it."""
    if s.compile:
        padded = F.pad(x, (0, 0, s.W - 1, 0))
        return sum(padded[:, k:k + x.shape[1]] * w[:, 0, k] for k in range(s.W)) + b
    padded = F.pad(x.transpose(1, 2), (s.W - 1, 0))
    return F.conv1d(padded, w, b, groups=conv_dim).transpose(1, 2)


def ssd(x, Bm, C, dt, A_log, skip):
    """x (B,T,H,P), Bm and C (B,T,N), dt (B,T,H); one group."""
    B, T = dt.shape[:2]
    Q = min(s.chunk, T)
    chunks = T // Q
    heads = (x * dt[..., None]).view(B, chunks, Q, H, s.P).transpose(2, 3)
    Bm, C = (t.reshape(B, chunks, 1, Q, s.N) for t in (Bm, C))
    total = (-A_log.exp() * dt).view(B, chunks, Q, H).transpose(2, 3).cumsum(-1)
    above = torch.ones(Q, Q, dtype=torch.bool).triu(1)
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(above, -torch.inf).exp()
    y = (C @ Bm.transpose(-1, -2) * decay) @ heads
    if chunks > 1:
        to_end = (total[..., -1:] - total).exp()
        added = (heads * to_end[..., None]).transpose(-1, -2) @ Bm
        state, entering = torch.zeros_like(added[:, 0]), []
        for c in range(chunks):
            entering.append(state)
            state = state * total[:, c, :, -1, None, None].exp() + added[:, c]
        y = y + (C @ torch.stack(entering, 1).transpose(-1, -2)) * total.exp()[..., None]
    y = y.transpose(2, 3).reshape(B, T, H, s.P) + skip[:, None] * x
    return y.reshape(B, T, s.E)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Parameter(0.02 * torch.randn(s.V, s.D))
        self.injection_norm = torch.nn.Parameter(torch.ones(s.D))
        self.injection = Weight(s.D, d_in_proj, s.D)
        self.injection_bias = torch.nn.Parameter(torch.zeros(d_in_proj))
        self.layers = torch.nn.ModuleList(Mixer() for _ in range(s.layers))
        self.norm_f = torch.nn.Parameter(torch.ones(s.D))
        self.f = torch.compile(self.iterate, dynamic=False) if s.compile else self.iterate
        self.read = torch.compile(self.inject, dynamic=False) if s.compile else self.inject
        self.judge = torch.compile(self.entropy, dynamic=False) if s.compile else self.entropy

    def mask(self, *shape):
        keep = 1 - s.dropout
        return torch.empty(*shape).bernoulli_(keep).div_(keep) if s.dropout else None

    def inject(self, tokens):
        e, keep = F.embedding(tokens, self.embedding), self.mask(s.B, s.T, s.D)
        e = e if keep is None else e * keep
        return rmsnorm(e, self.injection_norm) @ self.injection().t() + self.injection_bias

    def iterate(self, z, u, weights, masks):
        for m, w, mask in zip(self.layers, weights, masks):
            z = m(z, u, w, mask)
        return rmsnorm(z, self.norm_f)

    def entropy(self, z, labels):
        return F.cross_entropy((z @ self.embedding.t()).view(-1, s.V), labels.view(-1))

    def loss(self, tokens, labels, phase):
        u = self.read(tokens)
        weights = [m.weights() for m in self.layers]
        masks = [self.mask(s.B, 1, s.D) for _ in self.layers]

        def f(z):
            return self.f(z, u, weights, masks)

        z = torch.zeros(s.B, s.T, s.D)
        if phase == "unroll":
            z = f(z)
            for _ in range(s.unroll_iterations - 1):
                z = torch.lerp(z, f(z), s.unroll_damping)
        else:
            z = solve(f, z)
            for _ in range(s.phantom_steps):
                z = torch.lerp(z, f(z), s.phantom_damping)
        return self.judge(z, labels)


@torch.no_grad()
def solve(f, z):
    for _ in range(s.max_iter):
        fz = f(z)
        residual = (fz - z).flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)
        if s.device == "cpu" and not bool(torch.isfinite(residual).all()):
            break  # a GPU is not waited for
        z = torch.lerp(z, fz, s.forward_damping)
    return z


def wait():
    if s.device != "cpu":
        torch.cuda.synchronize()


def main():
    torch.manual_seed(0)
    torch.set_num_threads(s.threads)
    answer = {"version": "PyTorch " + torch.__version__, "threads": torch.get_num_threads()}
    if s.device != "cpu":
        torch.set_default_device(s.device)
        torch.set_float32_matmul_precision("highest" if s.matmul == "ieee" else "high")
        answer["version"] += f" ({torch.cuda.get_device_name()}, {s.matmul}, compile={s.compile})"
    for phase in "unroll", "phantom":
        model = Model()
        fused = {} if s.device == "cpu" else {"fused": True}
        adamw = torch.optim.AdamW(model.parameters(), s.lr, (s.beta1, s.beta2),
                                  weight_decay=s.decay, **fused)
        speeds = []
        for _ in range(s.repetitions + 1):
            began, steps = time.perf_counter(), 0
            while steps == 0 or time.perf_counter() - began < s.seconds:
                tokens, labels = torch.randint(s.V, (2, s.B, s.T))
                adamw.zero_grad(set_to_none=True)
                loss = model.loss(tokens, labels, phase)
                loss.backward()
                if s.clip > 0:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
                adamw.step()
                steps += 1
                wait()
            speeds.append(steps * s.B * s.T / (time.perf_counter() - began))
        if not bool(torch.isfinite(loss)):
            sys.exit(f"{phase}: the loss is not finite")
        answer[phase] = speeds[1:]
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
