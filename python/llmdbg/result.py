"""What comparing two runs found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg import tokens
from llmdbg.report import folder, summary
from llmdbg.report.destination import destination
from llmdbg.resume import Resume

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from llmdbg.measuring import StrPath
    from llmdbg.report.model import Report
    from llmdbg.verdict import Finding, GateResult


@dataclass
class Result:
    """What comparing two runs found.

    Attributes
    ----------
    report : Report
        Everything there is to show.
    files : dict of str to str or None
        Paths of the written report by kind (``directory``, ``csv``, …); None when none was written.
    tokens : list of Token or None
        With level ``token``: every position of the output.
    notices : tuple of str
        What the user should know about how this run went; a report says nothing of it.
    """

    report: Report
    files: dict[str, str] | None = None
    tokens: list[tokens.Token] | None = None
    notices: tuple[str, ...] = ()
    _resume: Resume = field(default_factory=lambda: Resume(None), repr=False)

    @property
    def frame(self) -> pl.DataFrame:
        """One row per pair in execution order, then the records without counterpart."""
        return self.report.frame

    @property
    def verdict(self) -> str:
        """``clean``, ``diverged`` or ``undecided``."""
        return self.report.verdict.outcome

    @property
    def culprit(self) -> Finding | None:
        """The first operator with clean inputs and a wrong output."""
        return self.report.verdict.culprit

    @property
    def summary(self) -> dict[str, Any]:
        """The answer as plain data: what ``llmdbg compare --json`` prints."""
        data = summary.summary(self.report, self.files or {})
        return data if self.tokens is None else data | {"tokens": tokens.summary(self.tokens)}

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """What the gates met, in the order they were given."""
        return self.report.gates

    def to_json(self) -> str:
        """Return the summary as strict JSON."""
        return summary.to_json(self.summary)

    def to_html(self, path: StrPath) -> None:
        """Write the report as one HTML file that opens offline; it needs the extra ``report``."""
        from llmdbg.report.html import write_html

        write_html(self.report, Path(path))

    def write(
        self,
        output: StrPath | None = None,
        *,
        force: bool = False,
        formats: Sequence[str] | None = None,
    ) -> dict[str, str]:
        """Write the report folder.

        Parameters
        ----------
        output : path, optional
            A new or empty folder is used itself; in any other a new one named
            ``llmdbg_compare_<time>`` is made. None means the working directory.
        force : bool
            Replace an earlier report in `output`.
        formats : sequence of str, optional
            What to write beside the tables: ``html``, ``xlsx``, ``jsonl``, ``markdown``, ``junit``.
            None is ``html`` where plotly is installed.

        Returns
        -------
        dict
            The written files by kind.
        """
        target = destination(output, force=force)
        self.files = folder.write(self.report, target, force=force, formats=formats)
        self._resume.done()
        return self.files

    def __repr__(self) -> str:
        return f"<llmdbg comparison of {self.report.counts['pairs']} pairs: {self._sentence}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p><b>{escape(self._sentence)}</b></p>{self.frame._repr_html_()}"

    @property
    def _sentence(self) -> str:
        return self.report.verdict.sentence
