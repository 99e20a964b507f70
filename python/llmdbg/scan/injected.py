"""Start watching torch inside a command that knows nothing of it.

`llmdbg scan-anomaly --exec` puts its settings into the environment, and `sitecustomize` calls
`install` in every Python process.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg.capture.injector import TRACE, Injector, TorchSettings
from llmdbg.capture.injector import install as install_injector

if TYPE_CHECKING:
    import torch

SETTINGS = "LLMDBG_WATCH"


def install() -> None:
    """Watch the first model this process calls."""
    settings = json.loads(os.environ[SETTINGS])
    install_injector(
        _WatchInjector(TorchSettings(path="", root=settings["root"]), settings["stop"])
    )


class _WatchInjector(Injector):
    """Waits for the outermost module that runs a forward, and watches it."""

    def __init__(self, settings: TorchSettings, stop: bool) -> None:  # noqa: FBT001
        super().__init__(settings)
        self._stop_at_first = stop

    def _started(self, module: torch.nn.Module) -> Any:
        from llmdbg.scan.watch import watch

        return _Watched(watch(module, stop=self._stop_at_first).start())


class _Watched:
    """A watch as the injector ends one; what it found goes to the command's starter."""

    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self.path = Path()
        self.problems: list[str] = []

    def stop(self) -> None:
        """End watching and leave the finding for the command's starter."""
        from llmdbg.scan.watch import NonFiniteError

        # The process is ending anyway.
        with contextlib.suppress(NonFiniteError):
            self._watch.stop()
        finding = self._watch.finding
        found = {
            "forwards": self._watch.forwards,
            "finding": None if finding is None else finding.as_dict(),
        }
        folder = os.environ.get(TRACE)
        if folder:
            path = Path(folder) / f"watch.{os.getpid()}"
            path.write_text(json.dumps(found), encoding="utf-8")
