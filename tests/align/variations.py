"""Generated pairs of dumps with known alignment, by kind of difference; scores of alignments."""

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors.numpy import save_file

from llmdbg import _core
from tests.align.decoder import Config, Decoder, chosen, generate, make_weights
from tests.align.sides import (
    Atb,
    Torch,
    Truth,
    is_quantised,
    quantised,
    write_atb,
    write_torch,
)

ERAS = ["A", "A'", "B", "C", "C'", "E"]
STYLES = ["mindie", "flat", "addnorm", "split"]
OTHER_NAMES = {
    "self_attn": "attention",
    "mlp": "feed_forward",
    "layers": "h",
    "model": "transformer",
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "embed_tokens": "wte",
    "norm": "ln_f",
    "lm_head": "output",
}
NO_NAMES = {old: f"m{k}" for k, old in enumerate(sorted(OTHER_NAMES)) if old not in ("layers",)}


@dataclass(frozen=True)
class Case:
    """What is written, and how the two sides differ."""

    kind: str
    seed: int
    config: Config = field(default_factory=Config)
    golden: object = field(default_factory=Torch)
    candidate: object = field(default_factory=Atb)
    golden_dtype: str = "float32"
    candidate_dtype: str = "float16"
    passes: int = 3
    prompt: int = 5
    fault: tuple | None = None
    golden_layers: tuple | None = None
    candidate_layers: tuple | None = None
    drop: float = 0.0
    checkpoint: bool = False


def _base(kind, seed):
    rng = random.Random(f"{kind}{seed}")
    layers = rng.choice([2, 2, 3, 4, 4, 6])
    weights = rng.random() < 0.6
    return rng, Case(
        kind,
        seed,
        config=Config(layers=layers),
        golden=Torch(weights=weights),
        candidate=Atb(
            era=rng.choice(ERAS), fused=rng.choice(STYLES), weights=weights or rng.random() < 0.5
        ),
        candidate_dtype=rng.choice(["float16", "bfloat16"]),
        golden_dtype=rng.choice(["float32", "bfloat16"]),
        passes=rng.choice([2, 3]),
        prompt=rng.choice([4, 5, 7]),
    )


def _plain(seed):
    return _base("plain", seed)[1]


def _rename(seed):
    rng, case = _base("rename", seed)
    names = rng.choice([OTHER_NAMES, NO_NAMES])
    ops = {
        "LinearOperation": "MatMul",
        "RmsNormOperation": "Norm",
        "Attention": "SelfAttn",
        "DecoderLayer": "Qwen_Block",
    }
    golden = replace(case.golden, names=names, fake_classes=rng.random() < 0.3)
    return replace(
        case, golden=golden, candidate=replace(case.candidate, rename=rng.choice([ops, {}]))
    )


def _fuse(seed):
    _, case = _base("fuse", seed)
    fused = ["addnorm", "mindie"][seed % 2]
    return replace(
        case,
        golden=replace(case.golden, functional=True),
        candidate=replace(case.candidate, fused=fused),
    )


def _split(seed):
    rng, case = _base("split", seed)
    qkv, gate_up = rng.choice([((), ()), (("q", "k", "v"), ()), ((), ("gate", "up"))])
    candidate = replace(case.candidate, fused="split", qkv=qkv, gate_up=gate_up)
    return replace(
        case, candidate=candidate, golden=replace(case.golden, functional=rng.random() < 0.5)
    )


def _reorder(seed):
    rng, case = _base("reorder", seed)
    way = seed % 3
    if way == 0:
        candidate = replace(case.candidate, qkv=("v", "q", "k"), gate_up=("up", "gate"))
    elif way == 1:
        candidate = replace(case.candidate, qkv=(), gate_up=(), swap_order=True)
    else:
        candidate = case.candidate
    return replace(
        case, candidate=candidate, golden=replace(case.golden, swap_order=rng.random() < 0.5)
    )


def _delete(seed):
    rng, case = _base("delete", seed)
    layer = rng.randrange(case.config.layers)
    gone = rng.choice(["q_rot", "core", "h", "mlp_norm", "attn_norm", "o", "down", "out"])
    return replace(case, candidate=replace(case.candidate, delete=(f"L{layer}.{gone}",)))


def _insert(seed):
    rng, case = _base("insert", seed)
    layers = rng.sample(range(case.config.layers), rng.choice([1, 2]))
    return replace(case, candidate=replace(case.candidate, insert=tuple(layers)))


def _repeat(seed):
    rng, case = _base("repeat", seed)
    golden = replace(case.golden, shared_act=True, functional=rng.random() < 0.5)
    kinds = ("LinearOperation", "ElewiseOperation", "RmsNormOperation", "ActivationOperation")
    everything = dict.fromkeys(kinds, "Op")
    return replace(
        case, golden=golden, candidate=replace(case.candidate, rename=rng.choice([everything, {}]))
    )


def _drop(seed):
    rng, case = _base("drop", seed)
    return replace(case, drop=rng.choice([0.05, 0.1, 0.2]))


def _layers(seed):
    rng, case = _base("layers", seed)
    config = replace(case.config, layers=rng.choice([4, 5, 6]))
    all_layers = list(range(config.layers))
    if seed % 2:
        fewer = tuple(all_layers[: rng.randrange(2, config.layers)])
    else:
        fewer = tuple(all_layers)
        gone = rng.randrange(1, config.layers - 1)
        fewer = tuple(i for i in fewer if i != gone)
        # Behind the missing layer all content differs: only weights tell which layer is which.
        case = replace(case, candidate=replace(case.candidate, weights=True))
        case = replace(case, golden=replace(case.golden, weights=True))
    side = rng.choice(["golden_layers", "candidate_layers"])
    return replace(case, config=config, **{side: fewer})


def _fault(seed):
    rng, case = _base("fault", seed)
    layer = rng.randrange(case.config.layers)
    part = rng.choice(
        ["attn_norm", "q", "k_rot", "core", "o", "h", "mlp_norm", "gate", "prod", "down"]
    )
    how = rng.choice(["scaled", "noise", "zero", "rolled"])
    return replace(case, fault=(f"L{layer}.{part}", how))


def _ranks(seed):
    rng, case = _base("ranks", seed)
    return replace(
        case, candidate=replace(case.candidate, ranks=2, insert=(0,) if rng.random() < 0.2 else ())
    )


def _checkpoint(seed):
    rng, case = _base("checkpoint", seed)
    candidate = replace(case.candidate, weights=True, transposed=rng.random() < 0.3)
    return replace(
        case, golden=replace(case.golden, weights=False), candidate=candidate, checkpoint=True
    )


def _steps(seed):
    rng, case = _base("steps", seed)
    one = rng.random() < 0.4
    candidate = replace(case.candidate, warmup=not one, one_model=one, offset=rng.choice([0, 0, 3]))
    return replace(case, candidate=candidate, passes=4)


def _no_topology(seed):
    rng, case = _base("no topology", seed)
    return replace(
        case, candidate=replace(case.candidate, topology=False, weights=rng.random() < 0.5)
    )


def _atb_atb(seed):
    rng, case = _base("atb to atb", seed)
    golden = replace(case.candidate, fused=rng.choice(STYLES), era=rng.choice(ERAS))
    return replace(case, golden=golden, golden_dtype="bfloat16")


def _quantised(seed):
    rng, case = _base("quantised", seed)
    candidate = replace(case.candidate, int8=True, weights=True)
    golden = replace(case.golden, weights=True)
    if seed % 2:
        golden = replace(candidate, int8=False)
    dtype = rng.choice(["float32", "bfloat16"])
    return replace(case, golden=golden, candidate=candidate, golden_dtype=dtype)


def _torch_torch(seed):
    rng, case = _base("torch to torch", seed)
    candidate = Torch(
        names=rng.choice([OTHER_NAMES, NO_NAMES]),
        functional=rng.random() < 0.5,
        weights=case.golden.weights,
    )
    return replace(
        case, candidate=candidate, golden=replace(case.golden, swap_order=rng.random() < 0.5)
    )


def _hook(seed):
    _, case = _base("torch hook", seed)
    return replace(case, golden=replace(case.golden, layout="ait"), passes=2)


def _deep(seed):
    rng, case = _base("deep", seed)
    return replace(
        case,
        config=Config(layers=rng.choice([24, 48]), hidden=16, heads=2, kv_heads=1, inter=24),
        passes=2,
    )


def _flat(seed):
    rng, case = _base("flat", seed)
    style = rng.choice(["flat", "split"])
    candidate = replace(case.candidate, flat=True, fused=style)
    if rng.random() < 0.5:
        candidate = replace(candidate, insert=(0,))
    golden = replace(case.golden, flat=True, functional=True, names=rng.choice([{}, NO_NAMES]))
    return replace(case, golden=golden, candidate=candidate)


def _flat_deep(seed):
    _, case = _base("flat and deep", seed)
    config = Config(layers=48, hidden=16, heads=2, kv_heads=1, inter=24)
    golden = replace(case.golden, flat=True, functional=True, names=NO_NAMES)
    candidate = replace(case.candidate, flat=True, fused="flat")
    return replace(case, config=config, golden=golden, candidate=candidate, passes=2)


KINDS = {
    "plain": _plain,
    "rename": _rename,
    "fuse": _fuse,
    "split": _split,
    "reorder": _reorder,
    "delete": _delete,
    "insert": _insert,
    "repeat": _repeat,
    "drop": _drop,
    "layers": _layers,
    "fault": _fault,
    "ranks": _ranks,
    "checkpoint": _checkpoint,
    "steps": _steps,
    "no topology": _no_topology,
    "atb to atb": _atb_atb,
    "quantised": _quantised,
    "torch to torch": _torch_torch,
    "torch hook": _hook,
    "flat": _flat,
    "deep": _deep,
    "flat and deep": _flat_deep,
}


def _rounded(weight):
    integers, scale = quantised(weight)
    return integers * scale[:, None]


@dataclass
class Written:
    golden: Path
    candidate: Path
    golden_truth: Truth
    candidate_truth: Truth
    checkpoint: Path | None


def write(case, path):
    """Compute and write both sides of a case."""
    path = Path(path)
    config = case.config
    weights = make_weights(config, case.seed)
    everything = tuple(range(config.layers))
    golden_layers = case.golden_layers or everything
    candidate_layers = case.candidate_layers or everything
    rng = random.Random(case.seed)
    prompt = [rng.randrange(config.vocab) for _ in range(case.prompt)]
    golden_run = Decoder(config, weights, case.golden_dtype, keep_layers=golden_layers)
    golden = generate(golden_run, prompt, case.passes)
    own_weights = weights
    if isinstance(case.candidate, Atb) and case.candidate.int8:
        own_weights = {k: _rounded(w) if is_quantised(k) else w for k, w in weights.items()}
    mine = Decoder(
        config, own_weights, case.candidate_dtype, keep_layers=candidate_layers, fault=case.fault
    )
    candidate = generate(mine, prompt, case.passes, follow=chosen(golden))
    warm = Decoder(config, weights, case.candidate_dtype, keep_layers=candidate_layers).forward(
        [1] * case.prompt
    )

    def drop():
        return rng.random() < case.drop

    def put(side, where, layers, runs):
        if isinstance(side, Torch):
            return write_torch(path / where, layers, side, runs, weights, drop)
        return write_atb(path / where, layers, side, runs, weights, drop, warm)

    truths = [
        put(case.golden, "golden", golden_layers, golden),
        put(case.candidate, "candidate", candidate_layers, candidate),
    ]
    checkpoint = None
    if case.checkpoint:
        checkpoint = path / "model.safetensors"
        save_file(weights, checkpoint)
    return Written(path / "golden", path / "candidate", *truths, checkpoint)


@dataclass
class Score:
    """Counts over pairs (precision) and over golden tensors that have a counterpart (recall)."""

    right: int = 0
    pairs: int = 0
    found: int = 0
    wanted: int = 0
    sure_and_wrong: int = 0
    wrong: list | None = None
    missed: list | None = None

    def add(self, other):
        for name in ("right", "pairs", "found", "wanted", "sure_and_wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def precision(self):
        return self.right / self.pairs if self.pairs else 1.0

    @property
    def recall(self):
        return self.found / self.wanted if self.wanted else 1.0


JUDGED = 0.6


def align(written):
    """The alignment of a written case, with the two dumps."""
    golden, candidate = _core.open_dump(written.golden), _core.open_dump(written.candidate)
    options = {}
    if written.checkpoint:
        options["weights"] = str(written.checkpoint)
    return _core.align(golden, candidate, json.dumps(options)), golden, candidate


def score(written):
    """Align a written case and compare with the truth."""
    alignment, golden, candidate = align(written)
    ours = _labels(golden, written.golden_truth)
    theirs = _labels(candidate, written.candidate_truth)
    columns = alignment.columns()
    result = Score(wrong=[], missed=[])
    found = set()
    rows = zip(
        *(
            columns[k]
            for k in ("golden_records", "candidate_records", "confidence", "transform", "evidence")
        ),
        strict=True,
    )
    for mine, other, confidence, transform, evidence in rows:
        if confidence < JUDGED:
            continue
        result.pairs += 1
        right = _right([ours[i] for i in mine], [theirs[i] for i in other], transform)
        result.right += right
        if right:
            found.update(mine)
        else:
            result.sure_and_wrong += confidence > 0.9
            result.wrong.append(
                (
                    mine,
                    other,
                    [ours[i] for i in mine],
                    [theirs[i] for i in other],
                    confidence,
                    evidence,
                    transform,
                )
            )
    there = defaultdict(bool)
    for labels in theirs:
        for label in labels:
            there[label.removesuffix("[-1]")] = True
    roles = golden.columns()["role"]
    for i, labels in enumerate(ours):
        if (
            roles[i] == "input"
            or not labels
            or not all(there[x.removesuffix("[-1]")] for x in labels)
        ):
            continue
        result.wanted += 1
        if i in found:
            result.found += 1
        else:
            result.missed.append((i, labels))
    return result


def _labels(dump, truth):
    columns = dump.columns()
    keys = zip(*(columns[k] for k in ("node", "role", "slot", "step", "rank", "call")), strict=True)
    return [
        truth.labels[node, role, slot if role == "param" else slot or "0", *rest]
        for node, role, slot, *rest in keys
    ]


def _is_sum(whole, parts):
    """Whether two values are what a residual stream adds up to a third."""
    ((whole,),) = whole
    run, _, name = whole.partition("/")
    layer, _, part = name.partition(".")
    before = {f"L{int(layer[1:]) - 1}.out", "embed"} if part == "h" else {f"{layer}.h"}
    added = f"{layer}.{'o' if part == 'h' else 'down'}"
    found = {label for labels in parts for label in labels}
    return any(found == {f"{run}/{stream}", f"{run}/{added}"} for stream in before)


def _right(ours, theirs, transform):
    """Whether the labels are the same, or one side was cut out of the other's pack."""
    if "dequantise" in transform and len(theirs) == 2:
        # The integers and their scales.
        values, scales = theirs
        if tuple(x.replace("S:", "W:") for x in scales) != values:
            return False
        theirs = [values]
    if transform.endswith(": sum"):
        return _is_sum(*((ours, theirs) if len(ours) == 1 else (theirs, ours)))
    ours = [tuple(x.replace("part:", "") for x in labels) for labels in ours]
    theirs = [tuple(x.replace("part:", "") for x in labels) for labels in theirs]
    if any(labels != ours[0] for labels in ours) or any(labels != theirs[0] for labels in theirs):
        return False
    mine, other = ours[0], theirs[0]
    if mine == other:
        return True
    if [x.removesuffix("[-1]") for x in mine] == [x.removesuffix("[-1]") for x in other]:
        return bool(transform)
    part, whole = sorted((mine, other), key=len)
    inside = any(whole[k : k + len(part)] == part for k in range(len(whole) - len(part) + 1))
    return inside and "slice" in transform
