"""Faults to plant in a model: what each does, and which answer is the right one.

Each kind is a function that hurts a model in place and says where. `inside` marks faults in the
code between a module's submodules: right is then a gap of that module.
"""

import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import nn

Model = Any


@dataclass(frozen=True)
class Planted:
    """Where a fault is: the node to name, or the module whose own code is at fault."""

    node: str
    inside: bool = False
    step: int | None = None


class NotHereError(Exception):
    """This kind of fault cannot be planted in this model."""


KINDS: dict[str, Callable[[Model, Random], Planted]] = {}


def kind(function: Callable[[Model, Random], Planted]) -> Callable[[Model, Random], Planted]:
    """Register a kind under its function's name."""
    KINDS[function.__name__] = function
    return function


# -- finding a place --------------------------------------------------------------------------


def is_linear(module: nn.Module) -> bool:
    """Whether it multiplies by a matrix."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_norm(module: nn.Module) -> bool:
    """Whether it is a LayerNorm or RMSNorm of any family."""
    return type(module).__name__.endswith(("LayerNorm", "RMSNorm"))


def pick(model: Model, random: Random, fits: Callable[[str, nn.Module], bool]) -> tuple[str, Any]:
    """Choose one of the modules that fit."""
    found = [(name, module) for name, module in model.named_modules() if fits(name, module)]
    if not found:
        raise NotHereError
    return random.choice(found)


def pick_linear(model: Model, random: Random) -> tuple[str, Any]:
    """Choose a matrix inside a layer."""
    return pick(model, random, lambda n, m: is_linear(m) and any(c.isdigit() for c in n))


def weight_of(linear: Any) -> torch.Tensor:
    """Give the weight as output by input, a view where it is stored the other way round."""
    return linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight


def layers_of(model: Model) -> tuple[str, Any]:
    """Give the list of layers, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            return name, module
    raise NotHereError


def pick_attention(model: Model, random: Random) -> tuple[str, Any]:
    """Choose an attention module."""
    return pick(model, random, lambda _n, m: type(m).__name__.endswith("Attention"))


# -- hurting it -------------------------------------------------------------------------------


def on_output(module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change what a module gives back."""

    def hook(_module: Any, _args: Any, result: Any) -> Any:
        if isinstance(result, tuple):
            return (change(result[0].clone()), *result[1:])
        return change(result.clone())

    module.register_forward_hook(hook)


def rewrite(module: Any, old: str, new: str, nth: int = 0, **names: Any) -> None:
    """Give `module` a forward of its own, whose source has `old` replaced by `new`."""
    function = inspect.unwrap(type(module).forward)
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index("def forward") :]
    pieces = source.split(old)
    if len(pieces) < nth + 2:
        raise NotHereError
    source = old.join(pieces[: nth + 1]) + new + old.join(pieces[nth + 1 :])
    scope = {**vars(sys.modules[type(module).__module__]), **names}
    exec(compile("from __future__ import annotations\n" + source, "<fault>", "exec"), scope)
    module.forward = types.MethodType(scope["forward"], module)


def in_attention(module: Any, change: Callable[..., tuple[Any, ...]]) -> None:
    """Change query, key, value and mask on the way into the attention function."""

    def wrapped(interface: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        own, query, key, value, mask = args
        return interface(own, *change(query, key, value, mask), **kwargs)

    rewrite(module, "= attention_interface(", "= _wrapped(attention_interface, ", _wrapped=wrapped)


# -- weights ----------------------------------------------------------------------------------


@kind
def weight_noise_5_percent(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    noise = torch.randn(linear.weight.shape, generator=seeded(random))
    linear.weight.data.add_(0.05 * linear.weight.float().std() * noise.to(linear.weight))
    return Planted(name)


@kind
def swapped_weight_rows(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    weight = weight_of(linear).data
    i, j = random.sample(range(weight.shape[0]), 2)
    weight[[i, j]] = weight[[j, i]].clone()
    return Planted(name)


@kind
def transposed_square_weight(model: Model, random: Random) -> Planted:
    name, linear = pick(
        model, random, lambda _n, m: is_linear(m) and m.weight.shape[0] == m.weight.shape[1]
    )
    linear.weight.data = linear.weight.data.T.contiguous()
    return Planted(name)


def _quantised(weight: torch.Tensor, levels: int, largest: torch.Tensor) -> torch.Tensor:
    scale = largest / levels
    return ((weight.float() / scale).round().clamp(-levels, levels) * scale).to(weight)


@kind
def int8_with_clipped_scale(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    weight = weight_of(linear)
    weight.data.copy_(_quantised(weight, 127, weight.float().std() * 1.5))
    return Planted(name)


@kind
def int8_one_scale_for_all(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    weight = weight_of(linear)
    weight.data.copy_(_quantised(weight, 127, weight.float().abs().max()))
    return Planted(name)


@kind
def int4_per_channel(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    weight = weight_of(linear)
    weight.data.copy_(_quantised(weight, 7, weight.float().abs().amax(1, keepdim=True)))
    return Planted(name)


@kind
def lm_head_noise(model: Model, random: Random) -> Planted:
    name, head = pick(model, random, lambda n, _m: n == "lm_head")
    noise = torch.randn(head.weight.shape, generator=seeded(random)).to(head.weight)
    head.weight = nn.Parameter(head.weight.data + 0.05 * head.weight.float().std() * noise)
    return Planted(name)


@kind
def embedding_row_of_another_token(model: Model, random: Random) -> Planted:
    name, table = pick(model, random, lambda n, _m: n.endswith(("embed_tokens", "wte")))
    token = random.choice(model.bench_tokens)
    table.weight = nn.Parameter(table.weight.data.clone())
    table.weight.data[token] = table.weight.data[(token + 1) % len(table.weight)]
    return Planted(name)


@kind
def norm_weight_one_too_large(model: Model, random: Random) -> Planted:
    name, norm = pick(model, random, lambda _n, m: is_norm(m))
    norm.weight = nn.Parameter(norm.weight.data + 1)
    return Planted(name)


@kind
def weight_of_another_layer(model: Model, random: Random) -> Planted:
    _, layers = layers_of(model)
    name, linear = pick_linear(model, random)
    parts = name.split(".")
    at = next(i for i, part in enumerate(parts) if part.isdigit())
    parts[at] = str((int(parts[at]) + 1) % len(layers))
    linear.weight.data.copy_(model.get_submodule(".".join(parts)).weight.data)
    return Planted(name)


@kind
def bias_dropped(model: Model, random: Random) -> Planted:
    name, linear = pick(
        model, random, lambda _n, m: is_linear(m) and getattr(m, "bias", None) is not None
    )
    linear.bias.data.zero_()
    return Planted(name)


@kind
def lm_head_row_of_another_token(model: Model, random: Random) -> Planted:
    name, head = pick(model, random, lambda n, _m: n == "lm_head")
    head.weight = nn.Parameter(head.weight.data.clone())
    token = random.randrange(len(head.weight))
    head.weight.data[token] = head.weight.data[(token + 1) % len(head.weight)]
    return Planted(name)


# -- what modules compute ---------------------------------------------------------------------


@kind
def output_scaled_1_percent(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    on_output(linear, lambda y: y * 1.01)
    return Planted(name)


@kind
def low_precision_accumulation(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)

    def forward(x: torch.Tensor) -> torch.Tensor:
        weight = weight_of(linear)
        total = torch.zeros(*x.shape[:-1], weight.shape[0], dtype=torch.bfloat16)
        for at in range(0, x.shape[-1], 16):
            part = x[..., at : at + 16].float() @ weight[:, at : at + 16].float().T
            total = (total.float() + part).to(torch.bfloat16)
        total = total if linear.bias is None else total + linear.bias
        return total.to(x.dtype)

    linear.forward = forward
    return Planted(name)


@kind
def last_inputs_dropped(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    count = max(4, weight_of(linear).shape[1] // 32)
    weight_of(linear).data[:, -count:] = 0
    return Planted(name)


@kind
def wrong_norm_eps(model: Model, random: Random) -> Planted:
    name, norm = pick(model, random, lambda _n, m: is_norm(m))
    attribute = next(a for a in ("variance_epsilon", "eps") if hasattr(norm, a))
    setattr(norm, attribute, 0.05)
    return Planted(name)


@kind
def wrong_activation(model: Model, random: Random) -> Planted:
    name, _ = pick(model, random, lambda n, _m: n.endswith((".act_fn", ".act")))
    parent, _, leaf = name.rpartition(".")
    old = getattr(model.get_submodule(parent), leaf)
    new = nn.GELU() if "SiLU" in type(old).__name__ else nn.SiLU()
    setattr(model.get_submodule(parent), leaf, new)
    return Planted(name)


@kind
def zeroed_region(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)

    def change(y: torch.Tensor) -> torch.Tensor:
        y[..., -max(1, y.shape[-1] // 16) :] = 0
        return y

    on_output(linear, change)
    return Planted(name)


@kind
def stomped_region(model: Model, random: Random) -> Planted:
    name, module = pick(model, random, lambda n, m: (is_linear(m) or is_norm(m)) and "." in n)
    start = random.random()

    def change(y: torch.Tensor) -> torch.Tensor:
        flat = y.view(-1)
        count = max(8, flat.numel() // 50)
        at = int(start * (flat.numel() - count))
        flat[at : at + count] = torch.linspace(-1, 1, count).to(y) * flat.abs().max()
        return y

    on_output(module, change)
    return Planted(name)


@kind
def one_wrong_token_row(model: Model, random: Random) -> Planted:
    name, module = pick_linear(model, random)
    row = random.randrange(1, 30)

    def change(y: torch.Tensor) -> torch.Tensor:
        if y.shape[1] > row:
            y[:, row] = y[:, row - 1]
        return y

    on_output(module, change)
    return Planted(name)


@kind
def two_token_rows_swapped(model: Model, random: Random) -> Planted:
    name, module = pick(model, random, lambda n, m: is_norm(m) and any(c.isdigit() for c in n))
    row = random.randrange(1, 30)

    def change(y: torch.Tensor) -> torch.Tensor:
        if y.ndim == 3 and y.shape[1] > row + 1:
            y[:, [row, row + 1]] = y[:, [row + 1, row]]
        elif y.ndim == 4 and y.shape[2] > row + 1:
            y[:, :, [row, row + 1]] = y[:, :, [row + 1, row]]
        return y

    on_output(module, change)
    return Planted(name)


@kind
def fp16_overflow(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)

    def change(y: torch.Tensor) -> torch.Tensor:
        scale = 65504 / y.float().abs().max() * 1.3
        return ((y.float() * scale).to(torch.float16).float() / scale).to(y)

    on_output(linear, change)
    return Planted(name)


@kind
def one_nan(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)

    def change(y: torch.Tensor) -> torch.Tensor:
        y.view(-1)[y.numel() // 3] = float("nan")
        return y

    on_output(linear, change)
    return Planted(name)


@kind
def dropout_left_on(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    generator = seeded(random)

    def change(y: torch.Tensor) -> torch.Tensor:
        kept = torch.rand(y.shape, generator=generator) >= 0.1
        return y * kept / 0.9

    on_output(linear, change)
    return Planted(name)


@kind
def clipped_at_two_deviations(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)

    def change(y: torch.Tensor) -> torch.Tensor:
        bound = float(2 * y.float().std())
        return y.clamp(-bound, bound)

    on_output(linear, change)
    return Planted(name)


@kind
def result_in_float8(model: Model, random: Random) -> Planted:
    name, module = pick(
        model, random, lambda n, m: (is_linear(m) or is_norm(m)) and any(c.isdigit() for c in n)
    )
    on_output(module, lambda y: y.to(torch.float8_e4m3fn).to(y.dtype))
    return Planted(name)


@kind
def one_channel_negated(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    channel = random.randrange(weight_of(linear).shape[0])

    def change(y: torch.Tensor) -> torch.Tensor:
        y[..., channel] = -y[..., channel]
        return y

    on_output(linear, change)
    return Planted(name)


@kind
def result_of_the_step_before(model: Model, random: Random) -> Planted:
    name, linear = pick_linear(model, random)
    step = random.randrange(2, 4)
    given: list[torch.Tensor] = []

    def change(y: torch.Tensor) -> torch.Tensor:
        given.append(y)
        return given[step - 1].clone() if len(given) == step + 1 else y

    on_output(linear, change)
    return Planted(name, step=step)


@kind
def norm_without_its_mean(model: Model, random: Random) -> Planted:
    name, norm = pick(model, random, lambda _n, m: isinstance(m, nn.LayerNorm))

    def forward(x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
        return wide.to(x.dtype) * norm.weight + norm.bias

    norm.forward = forward
    return Planted(name)


@kind
def position_off_by_one_in_decode(model: Model, random: Random) -> Planted:
    name, module = pick(
        model, random, lambda n, m: "Rotary" in type(m).__name__ or n.endswith("wpe")
    )
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        def moved(given: Any) -> Any:
            whole = isinstance(given, torch.Tensor) and not given.is_floating_point()
            return given + 1 if whole and given.shape[-1] == 1 else given

        return original(*map(moved, args), **{n: moved(v) for n, v in kwargs.items()})

    module.forward = forward
    return Planted(name)


@kind
def rope_base(model: Model, random: Random) -> Planted:
    name, rotary = pick(model, random, lambda _n, m: "Rotary" in type(m).__name__)
    for buffer, inv_freq in list(rotary.named_buffers()):
        if buffer.endswith("inv_freq"):
            inv_freq.data.copy_(inv_freq.float() ** 0.9)
    return Planted(name)


# -- the code between modules -----------------------------------------------------------------


@kind
def attention_scale(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)
    attention.scaling = attention.scaling * 1.25
    return Planted(name, inside=True)


@kind
def mask_off_by_one(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)

    def change(query: Any, key: Any, value: Any, _mask: Any) -> tuple[Any, ...]:
        rows, columns = query.shape[2], key.shape[2]
        seen = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows + 1)
        mask = torch.zeros(1, 1, rows, columns, dtype=query.dtype)
        return query, key, value, mask.masked_fill(~seen, torch.finfo(query.dtype).min)

    in_attention(attention, change)
    return Planted(name, inside=True)


@kind
def stale_kv_at_one_step(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)
    step = random.randrange(1, 4)
    calls = iter(range(1000))

    def change(query: Any, key: Any, value: Any, mask: Any) -> tuple[Any, ...]:
        if next(calls) == step:
            key, value = key.clone(), value.clone()
            key[:, :, -1], value[:, :, -1] = key[:, :, -2], value[:, :, -2]
        return query, key, value, mask

    in_attention(attention, change)
    return Planted(name, inside=True, step=step)


@kind
def wrong_kv_head(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)

    def change(query: Any, key: Any, value: Any, mask: Any) -> tuple[Any, ...]:
        if key.shape[1] < 2:
            raise NotHereError
        return query, key.roll(1, 1), value.roll(1, 1), mask

    in_attention(attention, change)
    return Planted(name, inside=True)


@kind
def rotary_sign(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)
    rewrite(
        attention, "cos, sin = position_embeddings", "cos, sin = position_embeddings; sin = -sin"
    )
    return Planted(name, inside=True)


@kind
def missing_residual(model: Model, random: Random) -> Planted:
    prefix, layers = layers_of(model)
    at = random.randrange(len(layers))
    old, new = "residual + hidden_states", "hidden_states"
    if type(layers[at]).__name__ == "GPT2Block":
        old, new = random.choice(
            [
                ("attn_output + residual", "attn_output"),
                ("residual + feed_forward_hidden_states", "feed_forward_hidden_states"),
            ]
        )
        rewrite(layers[at], old, new)
    else:
        rewrite(layers[at], old, new, nth=random.randrange(2))
    return Planted(f"{prefix}.{at}", inside=True)


@kind
def key_and_value_swapped(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)
    in_attention(attention, lambda query, key, value, mask: (query, value, key, mask))
    return Planted(name, inside=True)


@kind
def kv_heads_repeated_in_turn(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)
    groups = getattr(attention, "num_key_value_groups", 1)
    if groups < 2:
        raise NotHereError

    def wrapped(interface: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        own, query, key, value, mask = args
        one = types.SimpleNamespace(num_key_value_groups=1, training=False)
        wide = [t.repeat(1, groups, 1, 1) for t in (key, value)]
        del own
        return interface(one, query, *wide, mask, **kwargs)

    rewrite(
        attention, "= attention_interface(", "= _wrapped(attention_interface, ", _wrapped=wrapped
    )
    return Planted(name, inside=True)


@kind
def two_query_heads_swapped(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)

    def change(query: Any, key: Any, value: Any, mask: Any) -> tuple[Any, ...]:
        query = query.clone()
        query[:, [1, -2]] = query[:, [-2, 1]]
        return query, key, value, mask

    in_attention(attention, change)
    return Planted(name, inside=True)


@kind
def first_key_forgotten(model: Model, random: Random) -> Planted:
    name, attention = pick_attention(model, random)

    def change(query: Any, key: Any, value: Any, _mask: Any) -> tuple[Any, ...]:
        rows, columns = query.shape[2], key.shape[2]
        seen = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
        seen[1 if rows > 1 else 0 :, 0] = False
        mask = torch.zeros(1, 1, rows, columns, dtype=query.dtype)
        return query, key, value, mask.masked_fill(~seen, torch.finfo(query.dtype).min)

    in_attention(attention, change)
    return Planted(name, inside=True)


@kind
def residual_scaled(model: Model, random: Random) -> Planted:
    prefix, layers = layers_of(model)
    at = random.randrange(len(layers))
    if type(layers[at]).__name__ == "GPT2Block":
        rewrite(layers[at], "attn_output + residual", "attn_output + 1.05 * residual")
    else:
        old, new = "residual + hidden_states", "1.05 * residual + hidden_states"
        rewrite(layers[at], old, new, nth=random.randrange(2))
    return Planted(f"{prefix}.{at}", inside=True)


@kind
def gate_forgotten(model: Model, random: Random) -> Planted:
    name, mlp = pick(model, random, lambda _n, m: hasattr(m, "gate_proj"))
    rewrite(mlp, "self.act_fn(self.gate_proj(x)) *", "0 * self.act_fn(self.gate_proj(x)) +")
    return Planted(name, inside=True)


def seeded(random: Random) -> torch.Generator:
    """Give torch a generator that follows from `random`."""
    return torch.Generator().manual_seed(random.getrandbits(40))
