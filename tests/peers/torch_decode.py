#!/usr/bin/env python3
"""Sequential evaluation of a Mamba-2 model in plain PyTorch, to compare speeds with.

    torch_decode.py weights=FILE tokens=FILE implicit=1 tol=1e-2 min_iter=1 key=value...

prints JSON: tokens/s {"batch 1": [...], "batch 64": [...]}, and of the larger batch "iterations"
(evaluations of f a token) and "accuracy".  The other keys are those of torch_train.py, whose model
this is.  `bench decode` runs it with its own parameters and tokens (safetensors).  One token after
the other with the convolution's and the state-space states carried: Picard from 0 until every
sequence of the batch has reached `tol` (implicit), or the block once (explicit).  The tokens are
known before, and embedded, injected and decoded at once.  Exit status: 77 when PyTorch is missing.
"""
import json
import struct
import sys
import time

own = dict(weights="", tokens="", implicit="1", tol="1e-2", min_iter="1")
for word in sys.argv[1:]:
    if word.split("=")[0] in own:
        own.update([word.split("=", 1)])
sys.argv[1:] = [word for word in sys.argv[1:] if word.split("=")[0] not in own]

from torch_train import F, H, Model, conv_dim, rmsnorm, s, torch  # noqa: E402

implicit, tol, min_iter = own["implicit"] == "1", float(own["tol"]), int(own["min_iter"])


def read(path):
    """The tensors of a safetensors file, by name."""
    dtypes = {"F32": torch.float32, "F64": torch.float64, "I32": torch.int32, "I64": torch.int64}
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = bytearray(file.read())
    return {name: torch.frombuffer(data, dtype=dtypes[t["dtype"]], offset=t["data_offsets"][0],
                                   count=torch.Size(t["shape"]).numel()).view(t["shape"]).clone()
            for name, t in header.items() if name != "__metadata__"}


def load(model, tensors):
    def put(parameter, name):
        parameter.data = tensors.pop(name).to(parameter.dtype).view(parameter.shape)

    def weight(w, name):
        put(w.v, name + (".weight_v" if s.weight_norm else ".weight"))
        if s.weight_norm:
            put(w.g, name + ".weight_g")

    put(model.embedding, "word_emb.emb.weight")
    put(model.norm_f, "backbone.norm_f.weight")
    if implicit:
        put(model.injection_norm, "backbone.injection_norm.weight")
        weight(model.injection, "backbone.injection")
        put(model.injection_bias, "backbone.injection.bias")
    for i, m in enumerate(model.layers):
        mixer = f"backbone.layers.{i}.mixer."
        put(m.norm, f"backbone.layers.{i}.norm.weight")
        for parameter, name in ((m.gate_norm, "norm.weight"), (m.skip, "D"), (m.A_log, "A_log"),
                                (m.dt_bias, "dt_bias"), (m.conv_bias, "conv1d.bias")):
            put(parameter, mixer + name)
        for w, name in ((m.in_proj, "in_proj"), (m.conv, "conv1d"), (m.out_proj, "out_proj")):
            weight(w, mixer + name)
    if tensors:
        sys.exit(f"tensors that this model does not have: {sorted(tensors)}")


def step(m, weights, z, u, conv_state, state):
    """One token z (B,D) from the states before it; returns the output and the states behind it."""
    in_proj, conv, out_proj = weights
    zxbcdt = rmsnorm(z, m.norm) @ in_proj
    gate, xBC, dt = (zxbcdt if u is None else zxbcdt + u).split([s.E, conv_dim, H], -1)
    conv_state = torch.cat([conv_state[..., 1:], xBC[..., None]], -1)
    xBC = F.silu((conv_state * conv).sum(-1) + m.conv_bias)
    x, Bm, C = xBC.split([s.E, s.N, s.N], -1)
    x, dt = x.unflatten(-1, (H, s.P)), F.softplus(dt + m.dt_bias)
    decay = (-m.A_log.exp() * dt).exp()
    state = state * decay[..., None, None] + (x * dt[..., None])[..., None] * Bm[:, None, None]
    y = (state @ C[:, None, :, None]).squeeze(-1) + m.skip[:, None] * x
    return z + rmsnorm(y.flatten(1) * F.silu(gate), m.gate_norm) @ out_proj, conv_state, state


@torch.no_grad()
def evaluate(model, tokens):
    """Logits of tokens (B,T), and how many evaluations of f they took a token."""
    B, T = tokens.shape
    e, u = F.embedding(tokens, model.embedding), None
    if implicit:
        u = rmsnorm(e, model.injection_norm) @ model.injection().t() + model.injection_bias
    weights = [(m.in_proj().t(), m.conv().squeeze(1), m.out_proj().t()) for m in model.layers]
    states = [(torch.zeros(B, conv_dim, s.W), torch.zeros(B, H, s.P, s.N)) for _ in model.layers]
    out, iterations = torch.empty(B, T, s.D), 0

    def f(z, u):
        after = []
        for m, w, before in zip(model.layers, weights, states):
            z, *new = step(m, w, z, u, *before)
            after.append(new)
        return rmsnorm(z, model.norm_f), after

    for t in range(T):
        if not implicit:
            out[:, t], states = f(e[:, t], None)
            continue
        z = torch.zeros(B, s.D)
        for k in range(1, s.max_iter + 1):
            fz, after = f(z, u[:, t])
            residual = (fz - z).norm(dim=1) / fz.norm(dim=1)
            if k == s.max_iter or (k >= min_iter and bool((residual <= tol).all())):
                break
            z = torch.lerp(z, fz, s.forward_damping)
        iterations += k
        out[:, t], states = z, after
    return out @ model.embedding.t(), iterations / T


def main():
    torch.set_num_threads(s.threads)
    model, given = Model(), read(own["tokens"])
    load(model, read(own["weights"]))
    tokens, labels = given["input_ids"].long(), given["labels"].long()
    answer = {"version": "PyTorch " + torch.__version__, "threads": torch.get_num_threads()}
    for rows in 1, tokens.shape[0]:
        speeds = []
        for _ in range(s.repetitions + 1):
            began, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - began < s.seconds:
                logits, iterations = evaluate(model, tokens[:rows])
                count += rows * tokens.shape[1]
            speeds.append(count / (time.perf_counter() - began))
        answer[f"batch {rows}"] = speeds[1:]
    answer["iterations"] = [iterations]
    answer["accuracy"] = [(logits.argmax(-1) == labels).double().mean().item()]
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
