"""Faults planted in models, and whether the operator named first is the faulty one.

Golden is float32, the candidate bfloat16 or float16 with one fault; both run a prompt and three
forced tokens. A fault counts as effective when some output differs from that of the unhurt
candidate by more than three times its dtype's rounding. Right is the faulty module, or, for a fault
in the code between modules, a gap of the module whose code it is.

    make bench ARGS=faults                       # small random models, minutes
    python benches/faults.py --seed 7 --rounds 3 --no-weights --models llama gemma
"""

import os

# One thread each: small products lose more to waking threads than they win.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import copy
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fault_kinds
import fault_models
import torch

import llmdbg
from bench import Row
from llmdbg.verdict.floor import storage_floor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Case:
    """One candidate that was compared."""

    subject: str
    dtype: str
    kind: str
    planted: fault_kinds.Planted | None
    effective: bool
    named: str | None
    gap: bool
    sentence: str

    @property
    def outcome(self) -> str:
        if self.planted is None:
            return "clean" if self.named is None else "accused"
        if self.named is None:
            return "missed"
        right = self.named == self.planted.node and self.gap == self.planted.inside
        return ("gap right" if self.gap else "right") if right else "wrong"


class Arena:
    """One model with its golden dump and its unhurt candidates."""

    def __init__(self, subject: fault_models.Subject, work: Path, *, weights: bool) -> None:
        self.subject, self.work, self.weights = subject, work, weights
        self.golden = work / "golden"
        self.capture(subject.model, self.golden)
        self.clean: dict[str, Path] = {}
        for name in subject.dtypes:
            dtype = DTYPES[name]
            self.clean[name] = work / f"clean-{name}"
            self.capture(copy.deepcopy(subject.model).to(dtype), self.clean[name])

    def capture(self, model: Any, path: Path) -> None:
        """Run prompt and forced tokens under capture."""
        shutil.rmtree(path, ignore_errors=True)
        with torch.no_grad(), llmdbg.capture_torch(model, path, weights=self.weights):
            result = model(input_ids=self.subject.prompt, use_cache=True)
            for token in self.subject.forced:
                result = model(
                    input_ids=torch.tensor([[token]]),
                    past_key_values=result.past_key_values,
                    use_cache=True,
                )

    def judge_clean(self, dtype: str) -> Case:
        """Compare an unhurt candidate."""
        return self._judged(self.clean[dtype], dtype, "clean", None, effective=False)

    def judge_fault(self, kind: str, dtype: str, seed: int) -> Case:
        """Plant a fault and compare."""
        model = copy.deepcopy(self.subject.model).to(DTYPES[dtype])
        model.bench_tokens = self.subject.prompt[0].tolist()
        planted = fault_kinds.KINDS[kind](model, random.Random(seed))
        path = self.work / "candidate"
        self.capture(model, path)
        effective = _differs(self.clean[dtype], path, DTYPES[dtype])
        return self._judged(path, dtype, kind, planted, effective=effective)

    def _judged(self, path: Path, dtype: str, kind: str, planted: Any, *, effective: bool) -> Case:
        result = llmdbg.compare(self.golden, path, kl=False)
        culprit = result.culprit
        return Case(
            self.subject.name,
            dtype,
            kind,
            planted,
            effective,
            culprit.golden if culprit else None,
            culprit is not None and culprit.kind == "gap",
            result.report.verdict.sentence,
        )


def _differs(clean: Path, hurt: Path, dtype: torch.dtype) -> bool:
    frame = llmdbg.compare(clean, hurt, kl=False, shadow="off").frame.filter(role="output")
    limit = 3 * (storage_floor(str(dtype)) or 0.0)
    errors = frame["relative_euclidean_distance"].fill_null(0.0)
    return bool((errors > limit).any() or (frame["finiteness_mismatch"].fill_null(0) > 0).any())


def cases(
    work: Path,
    *,
    seed: int = 0,
    rounds: int = 1,
    models: list[str] | None = None,
    weights: bool = True,
    kinds: list[str] | None = None,
) -> Iterator[Case]:
    """Run every kind `rounds` times on every model, and every model clean."""
    for make in (fault_models.MODELS[name] for name in models or fault_models.SMALL):
        arena = Arena(make(seed), work / "arena", weights=weights)
        for dtype in arena.subject.dtypes:
            yield arena.judge_clean(dtype)
        for number in range(rounds):
            for at, kind in enumerate(kinds or fault_kinds.KINDS):
                dtypes = arena.subject.dtypes
                chosen = dtypes[(at + number + seed) % len(dtypes)]
                with contextlib.suppress(fault_kinds.NotHereError):
                    yield arena.judge_fault(kind, chosen, seed * 1_000_003 + number * 1009 + at)
        shutil.rmtree(work / "arena", ignore_errors=True)


COLUMNS = ("effective", "right", "gap right", "wrong", "missed")


def table(found: list[Case]) -> list[str]:
    """Counts per kind, as lines."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in found:
        if case.planted is None:
            continue
        counts[case.kind]["count"] += 1
        if case.effective:
            counts[case.kind]["effective"] += 1
            counts[case.kind][case.outcome] += 1
    head = f"{'kind':34}{'count':>7}" + "".join(f"{c:>11}" for c in COLUMNS)
    lines = [
        f"{kind:34}{c['count']:>7}" + "".join(f"{c[name]:>11}" for name in COLUMNS)
        for kind, c in counts.items()
    ]
    return [head, *lines]


def summary(found: list[Case]) -> tuple[int, int, int, int]:
    """Right and effective faults, clean called clean and clean runs."""
    effective = [c for c in found if c.effective]
    clean = [c for c in found if c.planted is None]
    return (
        sum(c.outcome in ("right", "gap right") for c in effective),
        len(effective),
        sum(c.outcome == "clean" for c in clean),
        len(clean),
    )


def run(work: Path) -> list[Row]:
    """Run the quick round: every kind once on every small model, with weights in the dump."""
    found = list(cases(work))
    print("\n".join(table(found)))
    right, effective, clean, runs = summary(found)
    return [
        Row(
            f"faults named right, of {effective} effective",
            f"{100 * right / effective:.1f} %",
            "≥ 95 %",
            right >= 0.95 * effective,
        ),
        Row(f"clean runs called clean, of {runs}", f"{clean}", f"{runs}", clean == runs),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and print every case that went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--models", nargs="*", choices=fault_models.MODELS, help="these only")
    parser.add_argument("--no-weights", action="store_true", help="dumps without parameters")
    parser.add_argument("--kinds", nargs="*", help="these kinds only")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    chosen = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="llmdbg-faults-"))
    found = []
    started = time.monotonic()
    try:
        for case in cases(
            work,
            seed=chosen.seed,
            rounds=chosen.rounds,
            models=chosen.models,
            weights=not chosen.no_weights,
            kinds=chosen.kinds,
        ):
            found.append(case)
            unsaid = case.outcome in ("right", "gap right", "clean")
            if chosen.verbose or (not unsaid and (case.effective or case.planted is None)):
                print(
                    f"{case.outcome:9} {case.subject} {case.dtype} {case.kind} "
                    f"{case.planted} | {case.sentence}",
                    flush=True,
                )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n".join(table(found)))
    right, effective, clean, runs = summary(found)
    print(f"right {right} of {effective} effective; clean {clean} of {runs} clean runs")
    print(f"{time.monotonic() - started:.0f} s for {len(found)} comparisons")
    return 0 if right >= 0.95 * effective and clean == runs else 1


if __name__ == "__main__":
    sys.exit(main())
