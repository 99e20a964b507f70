"""The decoder written to disk as two stacks see it: torch modules, and ATB operations.

Each writer returns the truth: for every tensor it wrote, the labels of the values in it. Labels
carry the pass, ``p1/L0.q``; weights are ``W:<checkpoint name>``. Several labels are a pack along
the last axis (the first one for weights).
"""

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from tests.writers.atb import AtbDump, node
from tests.writers.native import record, write_native

LAYER_WEIGHTS = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Torch:
    """How a torch dump is written."""

    names: dict = field(default_factory=dict)  # parts of module names, replaced
    functional: bool = False  # rope, products and residual sums are modules too
    shared_act: bool = False  # one activation module, called by every layer
    weights: bool = True
    swap_order: bool = False  # independent branches run in another order
    layout: str = "native"
    fake_classes: bool = False  # class names that tell nothing
    flat: bool = False  # a traced graph: calls only, and names without levels


@dataclass(frozen=True)
class Atb:
    """How an ATB dump is written."""

    era: str = "C'"
    fused: str = "mindie"  # mindie: nested graph operations; flat; addnorm; split
    qkv: tuple = ("q", "k", "v")  # order in the pack; () for three linears
    gate_up: tuple = ("gate", "up")
    rename: dict = field(default_factory=dict)
    warmup: bool = False
    one_model: bool = False
    weights: bool = True  # whether weights are among the inputs that were dumped
    topology: bool = True
    last_logits: bool = True
    insert: tuple = ()  # layers that have one more operation
    delete: tuple = ()  # labels whose operation left nothing
    transposed: bool = False  # weights stored [in, out]
    offset: int = 0  # an operation outside the models used numbers up
    ranks: int = 1
    int8: bool = False
    swap_order: bool = False
    flat: bool = False  # layers are no operations of their own
    bare_norm: bool = False  # the add-norm gives only what the norm does
    interleaved: int = 0  # rotary pairs beside each other in heads of that size
    copies: int = 1  # a batch of equal sequences
    padding: int = 0  # rows of nothing behind the tokens
    nz: bool = False  # linear operations give blocks of sixteen, and have weights in them
    groups: int = 1  # heads' groups that a pack of q, k and v is made of


@dataclass
class Op:
    kind: str
    inputs: list
    outputs: list
    params: dict | None = None
    children: list = field(default_factory=list)


@dataclass
class Truth:
    """Labels by (node, role, slot, step, rank, call)."""

    labels: dict = field(default_factory=dict)

    def add(self, node_name, role, slot, step, rank, call, labels):
        self.labels[node_name, role, str(slot), step, rank, call] = tuple(labels)


def is_quantised(name):
    """Whether a weight is one of the linear operations inside layers."""
    return name.endswith("_proj.weight")


def quantised(weight):
    """A weight as int8 and the scale of each row."""
    wide = weight.astype(np.float64)
    scale = np.abs(wide).max(-1) / 127
    return np.rint(wide / scale[:, None]).astype(np.int8), scale


def weight_name(label):
    """`W:L0.q` as the checkpoint calls it; other names stay."""
    layer, _, part = label.partition(".")
    if layer.startswith("L") and layer[1:].isdigit() and part in LAYER_WEIGHTS:
        return f"model.layers.{layer[1:]}.{LAYER_WEIGHTS[part]}.weight"
    return label


# ---------------------------------------------------------------- torch

CONTAINERS = (
    "LlamaAttention",
    "LlamaMLP",
    "LlamaDecoderLayer",
    "LlamaModel",
    "LlamaForCausalLM",
)


def torch_modules(kept, style):
    """(name, class, inputs, outputs, weight) of every module in order of completion."""
    rows = [("model.embed_tokens", "Embedding", ["ids"], ["embed"], "model.embed_tokens.weight")]
    rows.append(
        ("model.rotary_emb", "LlamaRotaryEmbedding", ["embed", "positions"], ["cos", "sin"], None)
    )
    x = "embed"
    for place, i in enumerate(kept):
        p, at = f"L{i}.", f"model.layers.{place}."

        def linear(name, source, target, at=at, i=i):
            weight = f"model.layers.{i}.{name}.weight"
            return (f"{at}{name}", "Linear", [source], [target], weight)

        def norm(name, source, target, at=at, i=i):
            return (
                f"{at}{name}",
                "LlamaRMSNorm",
                [source],
                [target],
                f"model.layers.{i}.{name}.weight",
            )

        rows.append(norm("input_layernorm", x, p + "attn_norm"))
        branches = [
            linear(f"self_attn.{s}_proj", p + "attn_norm", p + s)
            for s in (("v", "k", "q") if style.swap_order else ("q", "k", "v"))
        ]
        rows += branches
        if style.functional:
            inputs = [p + "q", p + "k", "cos", "sin"]
            rows.append(
                (f"{at}self_attn.rope", "ApplyRotary", inputs, [p + "q_rot", p + "k_rot"], None)
            )
            inputs = [p + "q_rot", p + "k_rot", p + "v"]
            rows.append((f"{at}self_attn.core", "CoreAttention", inputs, [p + "core"], None))
        rows.append(linear("self_attn.o_proj", p + "core", p + "o"))
        rows.append((f"{at}self_attn", "LlamaAttention", [p + "attn_norm"], [p + "o"], None))
        if style.functional:
            rows.append((f"{at}attn_add", "Add", [x, p + "o"], [p + "h"], None))
        rows.append(norm("post_attention_layernorm", p + "h", p + "mlp_norm"))
        act_name = "model.act_fn" if style.shared_act else f"{at}mlp.act_fn"
        act = (act_name, "SiLU", [p + "gate"], [p + "act"], None)
        gate = linear("mlp.gate_proj", p + "mlp_norm", p + "gate")
        up = linear("mlp.up_proj", p + "mlp_norm", p + "up")
        rows += [up, gate, act] if style.swap_order else [gate, act, up]
        if style.functional:
            rows.append((f"{at}mlp.mul", "Mul", [p + "act", p + "up"], [p + "prod"], None))
        rows.append(linear("mlp.down_proj", p + "prod", p + "down"))
        rows.append((f"{at}mlp", "LlamaMLP", [p + "mlp_norm"], [p + "down"], None))
        if style.flat:
            rows.append((f"{at}mlp_add", "Add", [p + "h", p + "down"], [p + "out"], None))
        rows.append((at[:-1], "LlamaDecoderLayer", [x], [p + "out"], None))
        x = p + "out"
    rows.append(("model.norm", "LlamaRMSNorm", [x], ["final_norm"], "model.norm.weight"))
    rows.append(("model", "LlamaModel", ["ids"], ["final_norm"], None))
    rows.append(("lm_head", "Linear", ["final_norm"], ["logits"], "lm_head.weight"))
    rows.append(("", "LlamaForCausalLM", ["ids"], ["logits"], None))
    return [row for row in rows if row[1] not in CONTAINERS] if style.flat else rows


def renamed(name, style):
    """A dotted module name with some of its parts replaced."""
    parts = (style.names.get(part, part) for part in name.split("."))
    return ("_" if style.flat else ".").join(p for p in parts if p)


def write_torch(path, kept, style, runs, weights, drop=lambda: False):
    """Write the runs; the truth. `drop` says of each file whether it is missing."""
    truth, tensors, records = Truth(), {}, []
    rows = torch_modules(kept, style)
    rows = [(renamed(n, style), c, i, o, w) for n, c, i, o, w in rows]
    kinds = {
        c: (f"Module{chr(65 + k)}" if style.fake_classes else c)
        for k, c in enumerate(dict.fromkeys(r[1] for r in rows))
    }
    for step, values in enumerate(runs):
        order, calls = 0, defaultdict(int)
        for name, _, inputs, outputs, _ in rows:
            call = calls[name]
            calls[name] += 1
            for role, labels in (("input", inputs), ("output", outputs)):
                for slot, label in enumerate(labels):
                    if drop():
                        continue
                    key = f"t{len(tensors)}"
                    tensors[key] = values[label][None]
                    records.append(
                        record(name, role, str(slot), key, step=step, order=order, **{"call": call})
                    )
                    truth.add(name, role, slot, step, 0, call, [f"p{step}/{label}"])
            order += 1
    listed = []
    if style.weights:
        for name, _, _, _, weight in rows:
            if weight is None or drop():
                continue
            key = f"w{len(listed)}"
            tensors[key] = weights[weight]
            listed.append(
                {
                    "node": name,
                    "role": "param",
                    "slot": "weight",
                    "file": "data/a.safetensors",
                    "key": key,
                }
            )
            truth.add(name, "param", "weight", None, 0, 0, [f"W:{weight}"])
    if style.layout == "ait":
        _write_ait(path, rows, kinds, records, listed, tensors)
        return replace_rank(truth)
    modules = [
        {"name": n, "type": kinds[c], "parent": _parent(n, {r[0] for r in rows})}
        for n, c in dict.fromkeys((r[0], r[1]) for r in rows)
    ]
    write_native(path, {"a.safetensors": tensors}, records, weights=listed, modules=modules)
    return truth


def _parent(name, names):
    """The nearest enclosing module that is listed: lists of layers are none."""
    while name:
        name = name.rpartition(".")[0]
        if name in names:
            return name
    return None


def replace_rank(truth):
    """The truth under the names that ait's hook gives: `root` before every module."""
    names = Truth()
    for (name, role, slot, step, rank, call), labels in truth.labels.items():
        node_name = f"root.{name}" if name else "root"
        if role == "param":
            node_name = f"root.{name}"
        names.labels[node_name, role, slot, step, rank, call] = labels
    return names


def _write_ait(path, rows, kinds, records, listed, tensors):
    import torch

    from tests.writers.torch_hook import TorchHookDump

    def to_torch(array):
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(np.ascontiguousarray(array))

    dump = TorchHookDump(path)
    calls = defaultdict(lambda: {"input": {}, "output": {}})
    for r in records:
        calls[r["step"], r["node"]][r["role"]][int(r["slot"])] = to_torch(tensors[r["key"]])
    for (step, name), sides in calls.items():
        inputs = [sides["input"].get(i) for i in range(max(sides["input"], default=-1) + 1)]
        outputs = [sides["output"].get(i) for i in range(max(sides["output"], default=-1) + 1)]
        several = any(r[0] == name and len(r[3]) > 1 for r in rows)
        output = tuple(outputs) if several else (outputs[0] if outputs else None)
        dump.module(step, f"root.{name}" if name else "root", inputs, output)
    dump.weights({f"{w['node']}.weight": to_torch(tensors[w["key"]]) for w in listed})
    # Definition order: a layer's norms come after attention and MLP, as Hugging Face defines them.
    tree = {"name": "root", "type": "LlamaForCausalLM", "children": []}
    nodes = {"": tree}
    names = sorted((r for r in rows if r[0]), key=lambda r: ("norm" in r[0].rsplit(".", 1)[-1],))
    for name, kind in [(r[0], kinds[r[1]]) for r in names]:
        parts = name.split(".")
        for k in range(1, len(parts) + 1):
            here = ".".join(parts[:k])
            if here not in nodes:
                nodes[here] = {"name": f"root.{here}", "type": "ModuleList", "children": []}
                nodes[".".join(parts[: k - 1])]["children"].append(nodes[here])
        nodes[name]["type"] = kind
    dump.tree(tree)


# ---------------------------------------------------------------- ATB


def _norm_op(weight, source, target):
    return Op("RmsNormOperation", [source, f"W:{weight}"], [target], {"epsilon": 1e-6})


def _linear(labels, source, style=None):
    pack = "|".join(labels)
    params = {"hasBias": False, "transposeB": True}
    weight = "|".join(f"W:{x}" for x in labels)
    if style is not None and style.int8:
        scale = "|".join(f"S:{x}" for x in labels)
        return Op("LinearQuantOperation", [source, weight, scale], [pack], params)
    return Op("LinearOperation", [source, weight], [pack], params)


def _row_parallel(label, source, style):
    """A linear whose ranks hold partial sums, and the reduction, where there are several ranks."""
    if style.ranks == 1:
        return [_linear([label], source, style)]
    partial = _linear([label], source, style)
    partial.outputs = [f"part:{label}"]
    return [partial, Op("AllReduceOperation", [f"part:{label}"], [label], {"allReduceType": "sum"})]


def _add(a, b, target):
    return Op("ElewiseOperation", [a, b], [target], {"elewiseType": 8})


def atb_layer(i, x, style, decode):
    """One layer's operations as a tree."""
    p = f"L{i}."
    qkv, gate_up = [p + s for s in style.qkv], [p + s for s in style.gate_up]
    attention = []
    norm = _norm_op(p + "attn_norm", x, p + "attn_norm")
    if qkv:
        pack = "|".join(qkv)
        split = Op("SplitOperation", [pack], qkv, {"splitDim": 1})
        linear = _linear(qkv, p + "attn_norm", style)
        if style.fused == "mindie":
            inside = Op(
                "QKVLinearSplitPack",
                linear.inputs,
                qkv,
                None,
                [linear, split],
            )
            attention.append(inside)
        else:
            attention += [linear, split]
    else:
        order = ("v", "k", "q") if style.swap_order else ("q", "k", "v")
        attention += [_linear([p + s], p + "attn_norm", style) for s in order]
    attention.append(
        Op(
            "RopeOperation",
            [p + "q", p + "k", "cos", "sin"],
            [p + "q_rot", p + "k_rot"],
            {"rotaryCoeff": 2},
        )
    )
    attention.append(Op("ReshapeAndCacheOperation", [p + "k_rot", p + "v"], []))
    kind = "PagedAttentionOperation" if decode else "SelfAttentionOperation"
    attention.append(Op(kind, [p + "q_rot", p + "k_rot", p + "v"], [p + "core"], {"headNum": 4}))
    attention += _row_parallel(p + "o", p + "core", style)
    mlp_norm = _norm_op(p + "mlp_norm", p + "h", p + "mlp_norm")
    mlp = []
    if gate_up:
        mlp.append(_linear(gate_up, p + "mlp_norm", style))
        if style.fused == "split":
            mlp.append(Op("SplitOperation", ["|".join(gate_up)], gate_up, {"splitDim": 1}))
    else:
        order = ("up", "gate") if style.swap_order else ("gate", "up")
        mlp += [_linear([p + s], p + "mlp_norm", style) for s in order]
    if style.fused == "split" or not gate_up:
        mlp.append(Op("ActivationOperation", [p + "gate"], [p + "act"], {"activationType": 2}))
        mlp.append(Op("ElewiseOperation", [p + "act", p + "up"], [p + "prod"], {"elewiseType": 9}))
    else:
        mlp.append(
            Op("ActivationOperation", ["|".join(gate_up)], [p + "prod"], {"activationType": 6})
        )
    mlp += _row_parallel(p + "down", p + "prod", style)
    if style.fused == "addnorm":
        joined = Op(
            "AddRmsNormOperation",
            [x, p + "o", f"W:{p}mlp_norm"],
            [p + "mlp_norm", *([] if style.bare_norm else [p + "h"])],
            {"epsilon": 1e-6},
        )
        last = _add(p + "h", p + "down", p + "out")
        if style.bare_norm:
            last = Op("ResidualOperation", [x, p + "o", p + "down"], [p + "out"])
        children = [norm, *attention, joined, *mlp, last]
    elif style.fused == "mindie":
        children = [
            Op("Attention", [x], [p + "o"], None, [norm, *attention]),
            _add(x, p + "o", p + "h"),
            Op("Mlp", [p + "h"], [p + "down"], None, [mlp_norm, *mlp]),
            _add(p + "h", p + "down", p + "out"),
        ]
    else:
        children = [
            norm,
            *attention,
            _add(x, p + "o", p + "h"),
            mlp_norm,
            *mlp,
            _add(p + "h", p + "down", p + "out"),
        ]
    if i in style.insert:
        at = random.Random(i).randrange(1, len(children))
        source = children[at - 1].outputs[0]
        children.insert(
            at,
            Op(
                "ElewiseOperation",
                [source],
                [f"half:{source}"],
                {"elewiseType": 2, "mulsParam": 0.5},
            ),
        )
    return Op("DecoderLayer", [x], [p + "out"], None, children)


def atb_model(kept, style, decode):
    """First-level operations of one model."""
    ops = [
        Op(
            "WordEmbedding",
            ["W:model.embed_tokens.weight", "ids"],
            ["embed"],
            None,
            [Op("GatherOperation", ["W:model.embed_tokens.weight", "ids"], ["embed"], {"axis": 0})],
        )
    ]
    x = "embed"
    for i in kept:
        layer = atb_layer(i, x, style, decode)
        ops += layer.children if style.flat else [layer]
        x = f"L{i}.out"
    ops.append(_norm_op("model.norm.weight", x, "final_norm"))
    rows = "[-1]" if style.last_logits else ""
    head = Op(
        "LinearOperation",
        [f"final_norm{rows}", "W:lm_head.weight"],
        [f"logits{rows}"],
        {"hasBias": False},
    )
    children = (
        [Op("GatherOperation", ["final_norm"], ["final_norm[-1]"], {"axis": 0})] if rows else []
    )
    ops.append(
        Op("LmHead", ["final_norm", "W:lm_head.weight"], [f"logits{rows}"], None, [*children, head])
    )
    return ops


class _AtbWriter:
    def __init__(self, path, style, weights, drop):
        self.style, self.weights, self.drop = style, weights, drop
        self.dumps = [AtbDump(path, style.era, device=r, pid=1234 + r) for r in range(style.ranks)]
        self.truth = Truth()

    def laid_out(self, values, label, rank):
        """The tensor as the device keeps it: batch, padding."""
        array = self.array(values, label, rank)
        style = self.style
        if label.startswith(("W:", "S:")) or len(array) != len(values["ids"]):
            return array
        array = np.concatenate([array] * style.copies)
        return np.concatenate([array, np.zeros((style.padding, *array.shape[1:]), array.dtype)])

    def array(self, values, label, rank):
        """The tensor of a label, or of a pack of labels, on one rank."""
        ranks = self.style.ranks
        labels = label.split("|")
        if label.startswith("W:"):
            return self._weight(labels, rank)
        if label.startswith("S:"):
            weights = [self.weights[weight_name(x[2:])] for x in labels]
            return np.concatenate([quantised(w)[1] for w in weights]).astype(np.float32)
        if label.startswith("half:"):
            whole = self.array(values, label[5:], rank)
            return (whole.astype(np.float32) * 0.5).astype(whole.dtype)
        if label.startswith("part:"):
            layer, part = label[5:].split(".")
            source = self.array(values, f"{layer}.{'core' if part == 'o' else 'prod'}", rank)
            weight = self._weight([f"W:{layer}.{part}"], rank)
            weight = weight.T if self.style.transposed else weight
            wide = source.astype(np.float64) @ weight.astype(np.float64).T
            return wide.astype(source.dtype)
        if label.endswith("[-1]"):
            return self.array(values, label[:-4], rank)[-1:]
        parts = []
        for one in labels:
            whole = values[one]
            if ranks > 1 and one.split(".")[-1] in (
                "q",
                "k",
                "v",
                "q_rot",
                "k_rot",
                "core",
                "gate",
                "up",
                "act",
                "prod",
            ):
                width = whole.shape[1] // ranks
                whole = whole[:, rank * width : (rank + 1) * width]
            if self.style.interleaved and one.split(".")[-1] in ("q", "k", "q_rot", "k_rot"):
                whole = halves_to_pairs(whole, self.style.interleaved)
            parts.append(whole)
        return self._pack(parts)

    def _pack(self, parts):
        """Parts side by side along the last axis, group by group where they are three."""
        if self.style.groups == 1 or len(parts) != 3:
            return np.concatenate(parts, -1)
        groups = [p.reshape(*p.shape[:-1], self.style.groups, -1) for p in parts]
        return np.concatenate(groups, -1).reshape(*parts[0].shape[:-1], -1)

    def _weight(self, labels, rank):
        parts = []
        for label in labels:
            whole = self.weights[weight_name(label[2:])]
            if self.style.int8 and is_quantised(weight_name(label[2:])):
                whole = quantised(whole)[0]
            part = label.rsplit(".", 1)[-1]
            if self.style.ranks > 1 and part in ("q", "k", "v", "gate", "up"):
                whole = np.array_split(whole, self.style.ranks, 0)[rank]
            if self.style.ranks > 1 and part in ("o", "down"):
                whole = np.array_split(whole, self.style.ranks, 1)[rank]
            if self.style.interleaved and part in ("q", "k"):
                whole = halves_to_pairs(whole.T, self.style.interleaved).T
            parts.append(whole)
        whole = self._pack([p.T for p in parts]).T if parts[0].ndim == 2 else np.concatenate(parts)
        return np.ascontiguousarray(whole.T) if self.style.transposed and whole.ndim == 2 else whole

    def run(self, ops, start, execution, values, run):
        for k, op in enumerate(ops):
            self.op(op, f"{start + k}_{self.name(op.kind)}", execution, values, run)

    def name(self, kind):
        return self.style.rename.get(kind, kind)

    def op(self, op, path, execution, values, run):
        for k, child in enumerate(op.children):
            self.op(child, f"{path}/{k}_{self.name(child.kind)}", execution, values, run)
        if any(out in self.style.delete for out in op.outputs) and not op.children:
            return
        for rank, dump in enumerate(self.dumps):
            written = {"in": [], "out": []}
            for side, role, labels in (("in", "input", op.inputs), ("out", "output", op.outputs)):
                for slot, label in enumerate(labels):
                    hidden = label.startswith(("W:", "S:")) and not self.style.weights
                    written[side].append(
                        None if hidden or self.drop() else self.laid_out(values, label, rank)
                    )
                    if written[side][-1] is None:
                        continue
                    one_row = len(values["ids"]) == 1
                    names = [
                        f"{x[:2]}{weight_name(x[2:])}"
                        if x.startswith(("W:", "S:"))
                        else f"p{run}/{x.removesuffix('[-1]') if one_row else x}"
                        for x in label.split("|")
                    ]
                    self.truth.add(path, role, slot, execution, rank, 0, names)
            blocks = self.style.nz and "Linear" in op.kind and not op.children
            _write_op(dump, execution, path, written, op.params, blocks=blocks)


def halves_to_pairs(array, head):
    """Heads of the last axis from `x0 x1 … y0 y1 …` to `x0 y0 x1 y1 …`."""
    heads = array.reshape(*array.shape[:-1], -1, 2, head // 2)
    return np.swapaxes(heads, -1, -2).reshape(array.shape)


def in_blocks(array):
    """A matrix as FRACTAL_NZ stores it: `[1, columns / 16, rows in sixteens, 16]`."""
    rows, cols = array.shape
    held, blocks = -(-rows // 16) * 16, -(-cols // 16)
    wide = np.zeros((held, blocks * 16), array.dtype)
    wide[:rows, :cols] = array
    return np.ascontiguousarray(wide.reshape(held, blocks, 16).transpose(1, 0, 2))[None]


def _write_op(dump, execution, path, written, params, *, blocks=False):
    """As `AtbDump.op`, for operations of which some files are missing."""
    from tests.writers.atb import write_bin

    directory = dump.directory / str(execution) / path
    for side, phase in (("in", "before"), ("out", "after")):
        for i, array in enumerate(written[side]):
            if array is not None:
                is_nz = blocks and array.ndim == 2 and (side, i) != ("in", 0)
                kept = in_blocks(array) if is_nz else array
                file = write_bin(
                    directory / phase / f"{side}tensor{i}.bin", kept, fmt=29 if is_nz else 2
                )
                if dump.era == "E":
                    dump._row(execution, path, side, str(i), np.asarray(array), file)
    directory.mkdir(parents=True, exist_ok=True)
    if params is not None:
        text = json.dumps(params, sort_keys=True, separators=(",", ":")) + "\n"
        (directory / "op_param.json").write_text(text)


def write_atb(path, kept, style, runs, weights, drop=lambda: False, warm=None):
    """Write the runs as a writer era does; the truth. `warm` are a warm-up prefill's values."""
    writer = _AtbWriter(path, style, weights, drop)
    prefill = atb_model(kept, style, decode=False)
    decode = prefill if style.one_model else atb_model(kept, style, decode=True)
    second = style.offset if style.one_model else style.offset + len(prefill)
    shift = 1 if style.warmup and style.era != "C" else 0
    if shift:
        writer.run(prefill, style.offset, 0, warm, "warm")
    for step, values in enumerate(runs):
        if step == 0:
            writer.run(prefill, style.offset, shift, values, step)
        else:
            execution = step if style.one_model or style.era == "C" else step - 1
            writer.run(decode, second, execution + (shift if style.one_model else 0), values, step)
    if style.topology:
        for dump in writer.dumps:
            names = ["DecoderModel_Prefill", "DecoderModel_Decode"]
            for name, ops, start in zip(names, [prefill, decode], [0, len(prefill)], strict=True):
                if name.endswith("Decode") and style.one_model:
                    continue
                dump.model(
                    name, [_node(op, [start + k], name, writer.name) for k, op in enumerate(ops)]
                )
    return writer.truth


def _node(op, ids, model, name):
    numbers = "_".join(map(str, ids))
    tensors = [[f"{model}_{label}" for label in side] for side in (op.inputs, op.outputs)]
    return node(
        f"{name(op.kind)}_{numbers}",
        name(op.kind),
        *tensors,
        param=op.params,
        nodes=[_node(child, [*ids, k], model, name) for k, child in enumerate(op.children)],
    )
