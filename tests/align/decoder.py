"""A decoder-only language model in numpy, and the name of every value it computes.

RMSNorm, grouped-query attention with rotary embedding and a key-value cache, SwiGLU, language-model
head. Arithmetic is float64; each value is rounded to the storage dtype where it is stored, as a
device does. The labels (``L0.q``, ``L3.gate``, ``logits``) are what an alignment is checked by.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Config:
    layers: int = 4
    hidden: int = 32
    heads: int = 4
    kv_heads: int = 2
    head: int = 8
    inter: int = 48
    vocab: int = 64

    @property
    def q_width(self):
        return self.heads * self.head

    @property
    def kv_width(self):
        return self.kv_heads * self.head


def make_weights(config, seed, dtype="bfloat16"):
    """Weights under their Hugging Face names, exactly representable in `dtype`."""
    rng = np.random.default_rng(seed)

    def matrix(rows, cols, scale=1.0):
        return rng.normal(0, scale / np.sqrt(cols), (rows, cols)).astype(DTYPES[dtype])

    def gain():
        return (1 + 0.2 * rng.normal(size=config.hidden)).astype(DTYPES[dtype])

    weights = {"model.embed_tokens.weight": matrix(config.vocab, config.hidden, 5.0)}
    for i in range(config.layers):
        layer = f"model.layers.{i}."
        shapes = {
            "self_attn.q_proj": (config.q_width, config.hidden),
            "self_attn.k_proj": (config.kv_width, config.hidden),
            "self_attn.v_proj": (config.kv_width, config.hidden),
            "self_attn.o_proj": (config.hidden, config.q_width),
            "mlp.gate_proj": (config.inter, config.hidden),
            "mlp.up_proj": (config.inter, config.hidden),
            "mlp.down_proj": (config.hidden, config.inter),
        }
        for name, (rows, cols) in shapes.items():
            weights[f"{layer}{name}.weight"] = matrix(rows, cols)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}{name}.weight"] = gain()
    weights["model.norm.weight"] = gain()
    weights["lm_head.weight"] = matrix(config.vocab, config.hidden)
    return weights


def _norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


def _rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], -1)
    return x * cos + turned * sin


FAULTS = {
    "scaled": lambda x: x * 1.7,
    "noise": lambda x: x + np.random.default_rng(5).normal(0, np.abs(x).mean() + 1e-3, x.shape),
    "zero": lambda x: x * 0,
    "rolled": lambda x: np.roll(x, 3, axis=-1),
}


class Decoder:
    """Runs the model, pass after pass, and keeps every value of each pass."""

    def __init__(self, config, weights, dtype, *, fault=None, keep_layers=None):
        self.config = config
        self.weights = {k: v.astype(np.float64) for k, v in weights.items()}
        self.dtype = DTYPES[dtype]
        self.fault = fault
        self.kept = range(config.layers) if keep_layers is None else keep_layers
        self.cache = {}
        self.position = 0

    def forward(self, ids):
        """Compute one pass over token ids; the values by label, shapes ``[tokens, …]``."""
        c, w, out = self.config, self.weights, {}

        def put(label, value):
            if self.fault and label == self.fault[0]:
                value = FAULTS[self.fault[1]](value)
            out[label] = value.astype(self.dtype)
            return out[label].astype(np.float64)

        tokens = len(ids)
        places = np.arange(self.position, self.position + tokens)
        self.position += tokens
        out["ids"], out["positions"] = np.asarray(ids, np.int64), places.astype(np.int64)
        x = put("embed", w["model.embed_tokens.weight"][ids])
        angles = places[:, None] / 10000 ** (np.arange(0, c.head, 2) / c.head)
        cos, sin = (np.concatenate([f(angles)] * 2, -1) for f in (np.cos, np.sin))
        cos, sin = put("cos", cos)[:, None], put("sin", sin)[:, None]
        for i in self.kept:
            p, at = f"L{i}.", f"model.layers.{i}."
            n = put(p + "attn_norm", _norm(x, w[at + "input_layernorm.weight"]))
            q, k, v = (
                put(p + s, n @ w[f"{at}self_attn.{s}_proj.weight"].T) for s in ("q", "k", "v")
            )
            q = put(p + "q_rot", _rotate(q.reshape(tokens, c.heads, -1), cos, sin).reshape(q.shape))
            k = put(
                p + "k_rot", _rotate(k.reshape(tokens, c.kv_heads, -1), cos, sin).reshape(k.shape)
            )
            core = put(p + "core", self._attend(i, q, k, v, places))
            o = put(p + "o", core @ w[at + "self_attn.o_proj.weight"].T)
            h = put(p + "h", x + o)
            n = put(p + "mlp_norm", _norm(h, w[at + "post_attention_layernorm.weight"]))
            gate = put(p + "gate", n @ w[at + "mlp.gate_proj.weight"].T)
            up = put(p + "up", n @ w[at + "mlp.up_proj.weight"].T)
            act = put(p + "act", gate / (1 + np.exp(-gate)))
            prod = put(p + "prod", act * up)
            down = put(p + "down", prod @ w[at + "mlp.down_proj.weight"].T)
            x = put(p + "out", h + down)
        x = put("final_norm", _norm(x, w["model.norm.weight"]))
        put("logits", x @ w["lm_head.weight"].T)
        return out

    def _attend(self, layer, q, k, v, places):
        c = self.config
        old_k, old_v = self.cache.get(layer, (k[:0], v[:0]))
        k, v = np.concatenate([old_k, k]), np.concatenate([old_v, v])
        self.cache[layer] = k, v
        heads = q.reshape(len(q), c.heads, c.head)
        repeat = c.heads // c.kv_heads
        keys = k.reshape(len(k), c.kv_heads, c.head).repeat(repeat, 1)
        values = v.reshape(len(v), c.kv_heads, c.head).repeat(repeat, 1)
        scores = np.einsum("thd,shd->hts", heads, keys) / np.sqrt(c.head)
        scores = np.where(np.arange(len(k)) <= places[:, None], scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return np.einsum("hts,shd->thd", scores, values).reshape(q.shape)


def generate(decoder, prompt, passes, follow=None):
    """Prefill with `prompt`, then greedy decoding; the values of each pass.

    `follow` are the token ids another run chose: both then see the same inputs.
    """
    runs = [decoder.forward(prompt)]
    for i in range(passes - 1):
        token = int(runs[-1]["logits"][-1].argmax()) if follow is None else follow[i]
        runs.append(decoder.forward([token]))
    return runs


def chosen(runs):
    """The token ids that a run of `generate` fed to its decode passes."""
    return [int(r["ids"][0]) for r in runs[1:]]
