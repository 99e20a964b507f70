"""Output tokens compared: what the last node of each run predicts, position by position."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmdbg.reading import to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llmdbg import _core
    from llmdbg.dump import Dump
    from llmdbg.verdict import Verdict

# A flip of the largest logit counts when golden prefers it by more than this many times what
# rounding does to logits; nearer ties are decided by rounding.
_SURE = 4.0
# What rounding does to the logits of a correct run by the last layer, as a share of their spread.
_DRIFT = {"bfloat16": 2e-2, "float16": 2.5e-3}
_DRIFT_WIDE = 1e-4
# Positions of one pair that are read; a prefill of a long prompt has as many as it has tokens.
_MOST = 1 << 16


@dataclass(frozen=True)
class Token:
    """One position of the output.

    Attributes
    ----------
    step : int or None
        Golden step.
    row : int
        Position within that step's logits.
    golden_token, candidate_token : int
        Index of the largest logit.
    kl : float
        Σ p (ln p − ln q) in nats, p and q the softmax of golden's and the candidate's logits.
    top1 : bool
        Whether the largest logit is the same.
    top5 : float
        Share of golden's five largest among the candidate's five largest.
    margin : float
        Golden's largest logit less its second largest.
    noise : float
        What rounding may do to these logits: their standard deviation times 2 % when the coarser
        side is bfloat16, 0.25 % when it is float16, else 0.01 %.
    differs : bool
        Whether the tokens differ and the margin is beyond 4 × `noise`.
    """

    step: int | None
    row: int
    golden_token: int
    candidate_token: int
    kl: float
    top1: bool
    top5: float
    margin: float
    noise: float
    differs: bool


def compare(alignment: _core.Alignment, pairs: Sequence[int], golden: Dump) -> list[Token]:
    """Compare the logits of some pairs.

    Parameters
    ----------
    alignment : Alignment
        Of the two runs.
    pairs : sequence of int
        Pairs of logits: ``[…, vocabulary]`` each.
    golden : Dump
        The golden run.

    Returns
    -------
    list of Token
        By step and position.
    """
    columns = alignment.columns()
    steps = golden.core.columns()["step"]
    found: list[Token] = []
    for pair in pairs:
        ours, theirs = (_rows(to_numpy(tensor)) for tensor in alignment.tensors(pair))
        if ours.shape != theirs.shape or ours.shape[-1] < 2:
            continue
        step = steps[columns["golden"][pair]]
        found += [_token(step, row, ours[row], theirs[row]) for row in range(min(len(ours), _MOST))]
    return sorted(found, key=lambda token: (token.step or 0, token.row))


def _rows(logits: NDArray[Any]) -> NDArray[Any]:
    return logits.reshape(-1, logits.shape[-1]) if logits.ndim else logits.reshape(1, 1)


def _token(step: int | None, row: int, ours: NDArray[Any], theirs: NDArray[Any]) -> Token:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    log_p, log_q = _log_softmax(a), _log_softmax(b)
    p = np.exp(log_p)
    kl = float(np.sum(np.where(p > 0, p * (log_p - log_q), 0.0)))
    most = min(5, len(a))
    best, other = np.argsort(-a, kind="stable")[:most], np.argsort(-b, kind="stable")[:most]
    drift = max(_DRIFT.get(x.dtype.name, _DRIFT_WIDE) for x in (ours, theirs))
    noise = drift * float(a.std())
    margin = float(a[best[0]] - a[best[1]])
    top1 = bool(best[0] == other[0])
    return Token(
        step=step,
        row=row,
        golden_token=int(best[0]),
        candidate_token=int(other[0]),
        kl=kl,
        top1=top1,
        top5=len(set(best.tolist()) & set(other.tolist())) / most,
        margin=margin,
        noise=noise,
        differs=not top1 and not margin <= _SURE * noise,
    )


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = x - x.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def summary(tokens: Sequence[Token]) -> dict[str, Any]:
    """Return the tokens as plain data, with the first that differs and the means before them."""
    first = next((asdict(t) for t in tokens if t.differs), None)
    near = next((asdict(t) for t in tokens if not t.top1), None)
    count = len(tokens)
    return {
        "count": count,
        "first_that_differs": first,
        "first_other_choice": near,
        "mean_kl": sum(t.kl for t in tokens) / count if count else None,
        "top1_agreement": sum(t.top1 for t in tokens) / count if count else None,
        "top5_agreement": sum(t.top5 for t in tokens) / count if count else None,
        "tokens": [asdict(t) for t in tokens],
    }


def answer(tokens: Sequence[Token], verdict: Verdict) -> tuple[Verdict, str]:
    """Return the verdict led by what the tokens say, and what the rows say as a note.

    A token that differs is a divergence whatever the logits' distance; where none does, the
    outcome stays that of the rows.
    """
    rows = f"by the distance of logits: {verdict.sentence}"
    if any(token.differs for token in tokens):
        verdict = replace(verdict, outcome="diverged")
    return replace(verdict, sentence=sentence(tokens)), rows


def sentence(tokens: Sequence[Token]) -> str:
    """Return the answer in one sentence."""
    if not tokens:
        return "no logits to compare"
    means = summary(tokens)
    rest = (
        f"mean KL {means['mean_kl']:.2e}, top-1 agreement {means['top1_agreement']:.1%}, "
        f"top-5 {means['top5_agreement']:.1%} over {len(tokens)} tokens"
    )
    first = next((t for t in tokens if t.differs), None)
    if first is None:
        near = sum(not t.top1 for t in tokens)
        flips = f" ({near} flips within rounding)" if near else ""
        return f"no token differs{flips}; {rest}"
    place = "" if first.step is None else f"step {first.step} "
    return (
        f"first token that differs: {place}position {first.row}: golden {first.golden_token}, "
        f"candidate {first.candidate_token} (margin {first.margin:.2g}, KL {first.kl:.2g}); {rest}"
    )
