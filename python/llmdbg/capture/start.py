"""The call that starts a recording: its arguments, and the layout they choose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmdbg._core import LlmdbgError
from llmdbg.capture.about import rank_and_world
from llmdbg.capture.ait import AitSink
from llmdbg.capture.api import LEVELS
from llmdbg.capture.comparing import CompareSink
from llmdbg.capture.cost import CountingSink
from llmdbg.capture.limits import Limits
from llmdbg.capture.modules import select
from llmdbg.capture.native import NativeSink
from llmdbg.capture.reduce import MODES
from llmdbg.capture.ring import RingSink, nonfinite
from llmdbg.capture.session import TorchCapture
from llmdbg.capture.wanted import Wanted
from llmdbg.capture.what import What
from llmdbg.dump import open_dump

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from llmdbg.capture.api import Level
    from llmdbg.capture.modules import Selection
    from llmdbg.capture.recorder import Index, Sink
    from llmdbg.capture.reduce import Mode
    from llmdbg.capture.ring import Rule
    from llmdbg.capture.wanted import Numbers
    from llmdbg.dump import Dump

    MakeSink: TypeAlias = Callable[[dict[str, Any]], Sink]

DEFAULT_QUEUE_BYTES = 1 << 30
_AXIS = re.compile(r"\.\.\.|(-?\d+)|(-?\d*):(-?\d*)(?::([1-9]\d*)?)?")


def capture_torch(
    model: torch.nn.Module,
    path: str | Path,
    *,
    mode: Mode = "full",
    level: Level | Sequence[Level] = "module",
    steps: Numbers = None,
    requests: Numbers = None,
    tokens: Numbers = None,
    seconds: tuple[float, float] | None = None,
    ranks: Numbers = None,
    device: int | None = None,
    modules: Selection = None,
    apis: str | Sequence[str] | None = None,
    inputs: bool = True,
    outputs: bool = True,
    weights: bool = False,
    last_logits: bool = False,
    tensor_slice: str | None = None,
    stack: bool = False,
    dummies: Literal["tag", "skip"] = "tag",
    compare_to: str | Path | None = None,
    stop_at_divergence: bool = False,
    trigger: Literal["nonfinite"] | Rule | None = None,
    trigger_steps: int = 1,
    dry_run: bool = False,
    max_bytes: int | None = None,
    min_free: int | None = None,
    layout: Literal["native", "ait"] = "native",
    compress: Literal["zstd"] | None = None,
    max_queue_bytes: int = DEFAULT_QUEUE_BYTES,
    rank: int | None = None,
) -> TorchCapture:
    """Record what each module of `model`, or each function it calls, is given and gives back.

    Use it as ``with capture_torch(model, "dumps/golden"):`` around any forward or ``generate``,
    or call ``start()`` and ``stop()``. Every tensor is kept as it was when the module was entered
    or left, with its path in the arguments or the result; other values are kept as values, and
    what cannot be stored is listed with its reason.

    Parameters
    ----------
    model
        The module whose forwards are the steps, counted from 0.
    path
        A directory that does not exist or is empty.
    mode
        What is kept of a tensor: ``"full"``, its bytes; ``"statistics"``, min, max, mean, L2 norm
        and counts of NaN, infinities and zeros; ``"sketch"``, these and about 2 KB by which
        ``compare`` estimates the relative L2 error; ``"hash"``, a hash of the bytes.
    level
        ``"module"``; ``"api"``, functions as Python calls them: of torch, torch.nn.functional,
        tensors, torch.distributed and torch_npu; ``"dispatch"``, the kernels below; or several.
    steps
        Steps to record: a number, a range, a slice or several numbers. None for all.
    requests, tokens
        The same for requests, and for forwards within each. A forward without a filled cache
        begins a request.
    seconds
        First and last second after the start between which a forward must begin.
    ranks
        Ranks that record.
    device
        Leave out tensors of numbered devices other than this.
    modules
        Modules to record: patterns with ``*`` over full names or class names, or classes. None
        for all. Functions are recorded while one of them runs.
    apis
        Patterns with ``*`` over names of functions, such as ``torch.nn.functional.*``.
    inputs, outputs
        Which side to record.
    weights
        Record every parameter and buffer once, as they are at the start.
    last_logits
        Record only what the last submodule of each step gave back.
    tensor_slice
        Part of every tensor to keep, as numpy would read it: ``"0,:4"`` or ``"...,-1,:"``. Tensors
        with too few axes are kept whole.
    stack
        Note where each call came from.
    dummies
        Forwards whose input ids are all the same: ``"tag"`` them in the manifest, or ``"skip"``.
        Those inside :meth:`TorchCapture.warmup`, or called by the profiling and warm-up functions
        of serving stacks, are always left out and not counted.
    compare_to
        A golden dump that each tensor is held against as it appears. Measures are kept of all,
        bytes only of calls whose output fails; the capture's ``result`` is the judgement.
    stop_at_divergence
        End the model's forward at the first such call, with a :class:`DivergedError` that the
        ``with`` block takes up.
    trigger
        Keep the last steps in memory, and write them only when an output holds NaN or infinity
        (``"nonfinite"``), or when this function of an output and its record returns a text.
    trigger_steps
        Steps before the one that fired that are written with it.
    dry_run
        Write nothing; afterwards the capture's ``cost`` says what the dump would take.
    max_bytes, min_free
        Bytes of tensors after which, and free bytes at `path` below which, recording ends. The
        model runs on.
    layout
        ``"native"``, or ``"ait"`` for the directories and ``.pth`` files of ``ait llm``.
    compress
        ``"zstd"`` writes the files of tensors through zstd: smaller, and slower than a disk that is
        fast.
    max_queue_bytes
        Bytes that may wait for the disk before the model has to wait.
    rank
        This process's rank. None asks torch.distributed, then ``RANK`` and ``WORLD_SIZE``.

    Returns
    -------
    TorchCapture
        The capture, not yet started.

    Raises
    ------
    LlmdbgError
        If an argument cannot be right, or a dump is at `path` already.
    """
    levels = frozenset([level] if isinstance(level, str) else level)
    _choose("level", levels or {""}, LEVELS)
    _choose("mode", {mode}, MODES)
    _choose("layout", {layout}, ("native", "ait"))
    _choose("dummies", {dummies}, ("tag", "skip"))
    if compress is not None:
        _choose("compress", {compress}, ("zstd",))
        if layout == "ait":
            raise LlmdbgError("layout='ait' has no compressed form; leave compress out")
    if layout == "ait" and (mode != "full" or levels != {"module"}):
        raise LlmdbgError("layout='ait' has a place for whole tensors of modules only")
    others = {"compare_to": compare_to, "trigger": trigger, "dry_run": dry_run or None}
    asked = [name for name, value in others.items() if value is not None]
    if len(asked) > 1 or (asked and layout == "ait"):
        also = "layout='ait'" if layout == "ait" else asked[1]
        raise LlmdbgError(f"{asked[0]} does not go together with {also}")
    if compare_to is not None and mode != "full":
        raise LlmdbgError("compare_to decides itself what is kept of a tensor; leave mode out")
    if stop_at_divergence and compare_to is None:
        raise LlmdbgError("stop_at_divergence needs compare_to, the dump to diverge from")
    if isinstance(trigger, str):
        _choose("trigger", {trigger}, ("nonfinite",))
    if trigger_steps < 0:
        raise LlmdbgError(f"trigger_steps is counted from 0 upwards, found {trigger_steps}")
    if device is not None and device < 0:
        raise LlmdbgError(f"a device is counted from 0 upwards, found {device}")
    base = Path(path)
    what = What(
        selected=select(model, modules),
        wanted=Wanted(steps, ranks, requests, tokens, seconds),
        levels=levels,
        apis=None if apis is None else (apis,) if isinstance(apis, str) else tuple(apis),
        device_index=device,
        weights=weights,
        inputs=inputs,
        outputs=outputs,
        last_logits=last_logits,
        stack=stack,
        cut=None if tensor_slice is None else _index(tensor_slice),
        skip_dummies=dummies == "skip",
        limits=Limits(max_bytes, min_free),
        stop_at_divergence=stop_at_divergence,
    )
    make_sink = _native(model, base, rank, max_queue_bytes, mode, compress=compress is not None)
    if layout == "ait":
        make_sink = _ait(base, rank, max_queue_bytes)
    elif dry_run:
        make_sink = _counting(base, mode)
    elif trigger is not None:
        rule = nonfinite if isinstance(trigger, str) else trigger
        make_sink = _ring(make_sink, max_queue_bytes, rule, trigger_steps)
    elif compare_to is not None:
        make_sink = _comparing(make_sink, max_queue_bytes, open_dump(compare_to))
    return TorchCapture(model, make_sink, path=base, what=what, rank=rank)


def _native(
    model: torch.nn.Module,
    base: Path,
    rank: int | None,
    max_queue_bytes: int,
    mode: Mode,
    *,
    compress: bool,
) -> MakeSink:
    own_rank, world = rank_and_world(rank)
    folder = base / f"rank{own_rank}" if world > 1 else base

    def make_sink(header: dict[str, Any]) -> Sink:
        _claim(folder)
        pinned = any(p.device.type != "cpu" for p in model.parameters())
        return NativeSink(
            folder, header, max_queue_bytes, pinned=pinned, mode=mode, compress=compress
        )

    return make_sink


def _ait(base: Path, rank: int | None, max_queue_bytes: int) -> MakeSink:
    _, world = rank_and_world(rank)

    def make_sink(header: dict[str, Any]) -> Sink:
        # Ranks share the directory: each process has one of its own below.
        if world == 1:
            _claim(base)
        return AitSink(base, header, max_queue_bytes)

    return make_sink


def _counting(base: Path, mode: Mode) -> MakeSink:
    return lambda _header: CountingSink(mode, base)


def _ring(behind: MakeSink, max_queue_bytes: int, rule: Rule, steps: int) -> MakeSink:
    return lambda header: RingSink(behind(header), max_queue_bytes, rule, steps)


def _comparing(behind: MakeSink, max_queue_bytes: int, golden: Dump) -> MakeSink:
    return lambda header: CompareSink(behind(header), max_queue_bytes, golden, header["rank"])


def _choose(name: str, given: set[str] | frozenset[str], known: Sequence[str]) -> None:
    for value in sorted(given - set(known), key=str):
        words = ", ".join(map(repr, known[:-1]))
        raise LlmdbgError(f"unknown {name} {value!r}; choose {words} or {known[-1]!r}")


def _index(text: str) -> Index:
    """Parse ``0,:4`` or ``...,-1,:``; torch knows no steps below 1."""
    index: list[Any] = []
    for part in text.strip().removeprefix("[").removesuffix("]").split(","):
        found = _AXIS.fullmatch(part.strip())
        if found is None:
            raise LlmdbgError(
                f"tensor_slice {text!r}: {part.strip()!r} is no index or range, as in ...,-1,:4"
            )
        number, start, stop, step = found.groups()
        if part.strip() == "...":
            index.append(...)
        elif number is not None:
            index.append(int(number))
        else:
            index.append(slice(*(int(n) if n else None for n in (start, stop, step))))
    if index.count(...) > 1:
        raise LlmdbgError(f"tensor_slice {text!r}: ... can stand once only")
    return tuple(index)


def _claim(folder: Path) -> None:
    """Make `folder`, or take it if it is empty; what is in use is never written to."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LlmdbgError(
            "something is already at the dump's path and is never overwritten; "
            f"choose another path, or move it away first: {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
