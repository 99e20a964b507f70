"""``llmdbg show``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmdbg.cli.errors import CLEAN, reports_errors

if TYPE_CHECKING:
    import numpy as np

    from llmdbg.show import Place

EXAMPLES = """Examples:

\b
  llmdbg show dumps/golden
  llmdbg show dumps/golden --node model.layers.3.mlp --step 0
  llmdbg show outtensor0.bin --slice "0,:4,:4" --to part.npy
  llmdbg show weights.safetensors#model.norm.weight"""


@reports_errors
def show(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A dump, a tensor file, or FILE#NAME in one.")
    ],
    node: Annotated[
        str | None, typer.Option("--node", metavar="NAME", help="This node's tensors of a dump.")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", metavar="N", help="Of this step only.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", help="Of this rank only.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--slice", metavar="RANGES", help='Print these values: "0,:4,:4".'),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE.npy", help="Write the tensor (or its --slice) here."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file that --to names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> int:
    """Say what a dump or a tensor file is: layout, steps, dtype, shape, statistics."""
    from llmdbg import show as shows
    from llmdbg.dump import open_dump
    from llmdbg.errors import UserError
    from llmdbg.report import shown as texts

    wanted = node is not None or step is not None or rank is not None
    dump = None if _is_one_tensor(path) else open_dump(path)
    if dump is None:
        if wanted:
            raise UserError(
                f"--node, --step and --rank choose from a dump, and this is a file: {path}"
            )
        return _tensor(path, shows.place_of(path), part, to, force=force, as_json=as_json)
    dump.core.describe()
    rows = shows.select(dump, node=node, step=step, rank=rank)
    if part is not None or to is not None:
        if len(rows) != 1:
            raise UserError(
                f"--slice and --to take one tensor, and {len(rows)} are chosen; "
                "name one as FILE#NAME, from the last column of `llmdbg show PATH --node NAME`"
            )
        return _tensor(path, shows.place(dump, rows[0]), part, to, force=force, as_json=as_json)
    if wanted:
        records = shows.describe_records(dump, rows)
        data = {"schema": shows.SCHEMA, "kind": "records", "path": path, "records": records}
        _print(data, texts.record_lines(records), as_json=as_json)
    else:
        data = shows.describe_dump(path, dump)
        _print(data, texts.dump_lines(data), as_json=as_json)
    return CLEAN


def _is_one_tensor(path: str) -> bool:
    from llmdbg import _core

    if not Path(path).exists():
        return "#" in path
    if Path(path).is_dir():
        return False
    try:
        return len(_core.list_tensors(path)) == 1
    except _core.LlmdbgError:
        # A description file of a dump, or a broken tensor file: open_dump knows which, and says so.
        return False


def _tensor(
    path: str,
    place: Place,
    part: str | None,
    to: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> int:
    from llmdbg import show as shows
    from llmdbg.report import shown as texts

    data = shows.describe_tensor(path, place)
    lines = texts.tensor_lines(data)
    if part is not None or to is not None:
        import numpy as np

        from llmdbg.reading import read_tensor

        array = read_tensor(*place)
        chosen = array if part is None else array[shows.parse_slice(part, array.shape)]
        chosen = np.asarray(chosen)
        if part is not None:
            data["slice"] = {"ranges": part, "values": _jsonable(chosen)}
            with np.printoptions(precision=6, threshold=1000, linewidth=100):
                lines += ["", *str(chosen).splitlines()]
        if to is not None:
            dtype = shows.save(chosen, to, force=force)
            data["written"] = {"path": str(to), "dtype": dtype}
            lines += ["", f"written as {dtype}: {to}"]
    _print(data, lines, as_json=as_json)
    return CLEAN


def _jsonable(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind == "c":
        return array.astype(str).tolist()
    if array.dtype.kind in "iub":
        return array.tolist()
    return array.astype("float64").tolist()


def _print(data: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    if as_json:
        from llmdbg.report.summary import to_json

        sys.stdout.write(to_json(data))
    else:
        sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


show.__doc__ = f"{show.__doc__}\n\n{EXAMPLES}"
