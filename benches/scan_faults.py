"""Planted anomalies of every kind on dumps of Gemma 3 270M: is each found where it was planted?

One row per case: what was planted, and which kind and node `llmdbg scan-anomaly` tells first.
"""

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import llmdbg
from bench import Row
from llmdbg import capture_torch
from llmdbg.demo import _gemma
from llmdbg.scan import Level, scan

LAYER = "model.layers.3"
Plant = Callable[[torch.nn.Module], Iterator[None]]


@dataclass(frozen=True)
class Case:
    """One planted anomaly."""

    name: str
    dtype: str
    kind: str
    node: str
    plant: Callable[[torch.nn.Module], Any]
    cause: str = ""


class Difference(torch.nn.Module):
    """Guidance takes what one run says from what the other says."""

    def forward(self, ours, theirs):
        return ours - theirs


class Product(torch.nn.Module):
    """An additive mask made of ones and zeros by a multiplication."""

    def forward(self, hides, by):
        return hides * by


@contextmanager
def weight(model, module, change):
    """Change a weight, and bring it back."""
    parameter = model.get_submodule(module).weight
    kept = parameter.detach().clone()
    with torch.no_grad():
        change(parameter)
    yield
    with torch.no_grad():
        parameter.copy_(kept)


@contextmanager
def result(model, module, change):
    """Change what a module gives back, as a broken kernel would, before anybody sees it."""
    target = model.get_submodule(module)
    forward = target.forward

    def broken(*args, **kwargs):
        given = forward(*args, **kwargs)
        if isinstance(given, tuple):
            return (change(given[0].clone()), *given[1:])
        return change(given.clone())

    target.forward = broken
    yield
    del target.forward


@contextmanager
def given(model, module, change):
    """Change the arguments of a module."""

    def before(_module, args, kwargs):
        return change(args, kwargs)

    handle = model.get_submodule(module).register_forward_pre_hook(
        before, with_kwargs=True, prepend=True
    )
    yield
    handle.remove()


def put(value, *index):
    def change(tensor):
        tensor[index] = value
        return tensor

    return change


def masked_row(args, kwargs):
    mask = torch.zeros(1, 1, 48, 48, dtype=kwargs["hidden_states"].dtype)
    mask.masked_fill_(torch.ones(48, 48).triu(1).bool(), float("-inf"))
    mask[..., 7, :] = float("-inf")
    return args, kwargs | {"attention_mask": mask}


def scaled(by):
    return lambda tensor: tensor.mul_(by)


CASES = [
    Case("a NaN in a result", "float32", "nan", f"{LAYER}.mlp.up_proj",
         lambda m: result(m, f"{LAYER}.mlp.up_proj", put(float("nan"), 0, 5, 9))),
    Case("an Inf in a result", "bfloat16", "overflow", f"{LAYER}.self_attn.v_proj",
         lambda m: result(m, f"{LAYER}.self_attn.v_proj", put(float("inf"), 0, 5, 9))),
    Case("a NaN weight", "float32", "nan", f"{LAYER}.mlp.down_proj",
         lambda m: weight(m, f"{LAYER}.mlp.down_proj", put(float("nan"), 3, 4))),
    Case("an Inf weight", "bfloat16", "nan overflow", f"{LAYER}.self_attn.q_proj",
         lambda m: weight(m, f"{LAYER}.self_attn.q_proj", put(float("inf"), 3, 4))),
    Case("float16 residual sum overflows by itself", "float16", "overflow", "model.layers.7",
         lambda m: result(m, "lm_head", lambda t: t)),
    Case("float16 linear overflows", "float16", "overflow", f"{LAYER}.mlp.up_proj",
         lambda m: weight(m, f"{LAYER}.mlp.up_proj", scaled(30000))),
    Case("saturating float16 arithmetic", "float16", "overflow", f"{LAYER}.mlp.up_proj",
         lambda m: result(m, f"{LAYER}.mlp.up_proj", lambda t: (t * 30000).clamp(-65504, 65504))),
    Case("a zero row in a norm without epsilon", "float32", "nan",
         f"{LAYER}.input_layernorm", lambda m: zero_norm(m), "0/0"),
    Case("a fully masked attention row", "float32", "masked_row", f"{LAYER}.self_attn",
         lambda m: eager_masked_row(m), "masked row"),
    Case("Inf − Inf: the difference of masked logits", "float32", "nan", "lm_head.difference",
         lambda m: guided_logits(m), "inf-inf"),
    Case("0 · Inf: a mask made by multiplying", "float32", "nan", f"{LAYER}.self_attn.mask",
         lambda m: multiplied_mask(m), "0*inf"),
    Case("NaN given to the model", "float32", "input", "", lambda m: given(m, "", nan_embeddings)),
    Case("float16 near its maximum", "float16", "near_max", f"{LAYER}.self_attn.k_proj",
         lambda m: result(m, f"{LAYER}.self_attn.k_proj", put(60000.0, 0, 2, 2))),
    Case("one operator amplifies", "bfloat16", "growth", f"{LAYER}.self_attn.o_proj",
         lambda m: weight(m, f"{LAYER}.self_attn.o_proj", scaled(5000))),
    Case("a result of zeros", "float32", "all_zero", f"{LAYER}.mlp.gate_proj",
         lambda m: weight(m, f"{LAYER}.mlp.gate_proj", scaled(0))),
    Case("a constant result", "float32", "constant", f"{LAYER}.mlp.gate_proj",
         lambda m: result(m, f"{LAYER}.mlp.gate_proj", lambda t: t.fill_(0.5))),
    Case("a row of zeros", "bfloat16", "dead_rows", f"{LAYER}.mlp.down_proj",
         lambda m: result(m, f"{LAYER}.mlp.down_proj", put(0.0, 0, 11))),
    Case("dead channels", "float32", "dead_channels", f"{LAYER}.mlp.up_proj",
         lambda m: weight(m, f"{LAYER}.mlp.up_proj", lambda w: w[:400].zero_())),
    Case("one token's row for all", "float32", "repeated_rows", f"{LAYER}.mlp.down_proj",
         lambda m: result(m, f"{LAYER}.mlp.down_proj", lambda t: t[:, :1].expand_as(t).clone())),
]  # fmt: skip


@contextmanager
def zero_norm(model):
    norm = model.get_submodule(f"{LAYER}.input_layernorm")
    kept, norm.eps = norm.eps, 0.0

    def zero(args, kwargs):
        first = args[0].clone()
        first[0, 6] = 0
        return (first, *args[1:]), kwargs

    with given(model, f"{LAYER}.input_layernorm", zero):
        yield
    norm.eps = kept


@contextmanager
def eager_masked_row(model):
    """Torch's fused attention gives zeros for such a row; attention written out gives NaN."""
    model.set_attn_implementation("eager")
    with given(model, f"{LAYER}.self_attn", masked_row):
        yield
    model.set_attn_implementation("sdpa")


@contextmanager
def small_residuals(model):
    writers = ["model.embed_tokens"]
    for layer in range(len(model.model.layers)):
        for norm in ("post_attention_layernorm", "post_feedforward_layernorm"):
            writers.append(f"model.layers.{layer}.{norm}")
    with ExitStack() as stack:
        for writer in writers:
            stack.enter_context(result(model, writer, scaled(1 / 16)))
        yield


@contextmanager
def guided_logits(model):
    """Logits of which half of the vocabulary is masked, less themselves."""
    head = model.lm_head
    head.difference = Difference()
    forward = head.forward

    def guided(hidden):
        logits = forward(hidden).clone()
        logits[..., logits.shape[-1] // 2 :] = float("-inf")
        return head.difference(logits, logits * 0.5)

    head.forward = guided
    yield
    del head.forward, head.difference


@contextmanager
def multiplied_mask(model):
    attention = model.get_submodule(f"{LAYER}.self_attn")
    attention.mask = Product()

    def masked(args, kwargs):
        hides = torch.ones(48, 48).triu(1)
        return args, kwargs | {"attention_mask": attention.mask(hides, torch.tensor(-torch.inf))}

    with given(model, f"{LAYER}.self_attn", masked):
        yield
    del attention.mask


def nan_embeddings(_args, kwargs):
    ids = kwargs.pop("input_ids")
    embeddings = torch.randn(1, ids.shape[1], 640)
    embeddings[0, 3, 3] = float("nan")
    return (), kwargs | {"inputs_embeds": embeddings}


def dump(model, ids, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    with torch.no_grad(), capture_torch(model, folder):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return folder


def judge(case: Case, folder: Path) -> tuple[str, bool]:
    """What a scan tells of a case, and whether that is right."""
    findings = [f for f in scan(folder).findings if f.level is not Level.INFO]
    wanted = case.kind.split()
    if not findings:
        return "nothing", False
    first = findings[0]
    # A float16 run of this model overflows by itself in layer 7: a warning planted before it
    # stands behind that error.
    matching = [f for f in findings if f.kind in wanted and f.node == case.node]
    right = bool(matching) and (first is matching[0] or case.dtype == "float16")
    shown = matching[0] if right else first
    cause = shown.details.get("cause", "") if case.cause else ""
    told = f"{shown.kind}{f' ({cause})' if cause else ''} in {shown.node or '(whole model)'}"
    return told, right and cause == case.cause


def run(work: Path, *, rounds: int = 20) -> list[Row]:
    """Plant each case, scan, and hold the answer against what was planted."""
    torch.set_num_threads(2)
    base, ids, _ = _gemma(lambda _text: None)
    models = {"float32": base}
    for dtype in ("bfloat16", "float16"):
        models[dtype] = copy.deepcopy(base).to(getattr(torch, dtype))
    rows = []
    models["float64"] = copy.deepcopy(base).double()
    for dtype, model in models.items():
        # In float16 this model overflows by itself, which is a case below; not so with a smaller
        # residual stream, which changes nothing else: every reader of it is a norm.
        with small_residuals(model) if dtype == "float16" else nullcontext():
            folder = dump(model, ids, work / "clean")
        errors = scan(folder).counts["error"]
        rows.append(Row(f"clean run, {dtype}: errors", str(errors), "0", errors == 0))
    for case in CASES:
        model = models[case.dtype]
        with case.plant(model):
            folder = dump(model, ids, work / "planted")
        told, right = judge(case, folder)
        rows.append(Row(f"{case.name} ({case.dtype})", told, case.node or "input", right))
    return [*rows, *run_to_run(models["float32"], ids, work), watch_cost(base, ids, rounds)]


def run_to_run(model, ids, work: Path) -> list[Row]:
    """One operator whose last bits differ from run to run."""
    first = dump(model, ids, work / "first")
    node = f"{LAYER}.self_attn.o_proj"
    with result(model, node, lambda t: t * (1 + 1e-6)):
        second = dump(model, ids, work / "second")
    told = [f for f in scan(first, second).findings if f.kind == "nondeterministic"]
    right = bool(told) and told[0].node == node
    answer = told[0].node if told else "nothing"
    return [Row("differs from run to run (float32)", answer, node, right)]


def watch_cost(model, ids, rounds: int) -> Row:
    """The fastest watched forward over the fastest plain one, in seconds of wall time.

    They take turns: other work on the machine disturbs the fastest of many least.
    """

    def forward() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
        return time.perf_counter() - start

    forward()
    plain, watched = [], []
    for _ in range(rounds):
        plain.append(forward())
        with llmdbg.watch(model):
            watched.append(forward())
    cost = min(watched) / min(plain)
    name = f"a watched forward over a plain one ({torch.get_num_threads()} threads)"
    return Row(name, f"{cost:.2f}×", "≤ 1.15×", cost <= 1.15)
