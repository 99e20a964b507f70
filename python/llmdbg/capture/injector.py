"""Start recording torch inside a command that knows nothing of it.

`llmdbg dump` puts its settings into the environment, and `sitecustomize` calls `install` in every
Python process. Nothing happens until the process imports torch and calls a model.
"""

from __future__ import annotations

import atexit
import contextlib
import fnmatch
import json
import os
import sys
import threading
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdbg.capture.after_import import after_import

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import torch

    from llmdbg.capture.session import TorchCapture

SETTINGS = "LLMDBG_CAPTURE"
TRACE = "LLMDBG_TRACE"
_HOME_OF_MODULE = "torch.nn.modules.module"
# Wrappers that add nothing of their own to the computation.
_WRAPPERS = ("DistributedDataParallel", "DataParallel")


@dataclass(frozen=True)
class TorchSettings:
    """What to record of torch in a command's processes.

    Attributes
    ----------
    path
        Where the dump goes; each rank below it, when there are several.
    steps
        First and last forward of each wanted range, counted from 0; None for all.
    modules
        Patterns over module names and class names; empty for all.
    inputs, outputs
        Which sides of a module.
    weights
        Also the parameters.
    devices
        Record only where the model lies on one of these device numbers; empty for all.
    root
        Pattern over the class name of the model; empty for the first that has submodules.
    """

    path: str
    steps: tuple[tuple[int, int], ...] | None = None
    modules: tuple[str, ...] = ()
    inputs: bool = True
    outputs: bool = True
    weights: bool = False
    devices: tuple[str, ...] = ()
    root: str = ""

    def to_text(self) -> str:
        """Spell the settings for the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> TorchSettings:
        """Read what `to_text` wrote."""
        values = json.loads(text)
        steps = values.pop("steps")
        return cls(
            path=values["path"],
            steps=None if steps is None else tuple((first, last) for first, last in steps),
            modules=tuple(values["modules"]),
            inputs=values["inputs"],
            outputs=values["outputs"],
            weights=values["weights"],
            devices=tuple(values["devices"]),
            root=values["root"],
        )


def install(injector: Injector | None = None) -> None:
    """Give the first model this process calls to `injector`, or record it as SETTINGS says."""
    injector = injector or Injector(TorchSettings.from_text(os.environ[SETTINGS]))
    after_import(_HOME_OF_MODULE, injector.watch)


class Injector:
    """Waits for the outermost module that runs a forward, and captures it."""

    def __init__(self, settings: TorchSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._capture: TorchCapture | None = None
        self._pid = 0

    def watch(self, home: ModuleType) -> None:
        """Look at every module call until the first that is a model."""
        self._module_class = home.Module
        original = self._original = home.Module.__call__

        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            # A module called while none of its ancestors runs is outermost.
            if self._is_model(module):
                self._begin(module)
            return original(module, *args, **kwargs)

        home.Module.__call__ = call
        _trace("torch-imported", {})

    def _is_model(self, module: torch.nn.Module) -> bool:
        if self._settings.root:
            return fnmatch.fnmatchcase(type(module).__name__, self._settings.root)
        has_children = next(module.children(), None) is not None
        return has_children and next(module.parameters(), None) is not None

    def _begin(self, module: torch.nn.Module) -> None:
        with self._lock:
            if self._module_class.__call__ is self._original:
                return
            # From here on calls cost nothing more than the hooks.
            self._module_class.__call__ = self._original
        self._pid = os.getpid()
        while type(module).__name__ in _WRAPPERS:
            module = module.get_submodule("module")
        device = _device_number(module)
        if self._settings.devices and device not in self._settings.devices:
            _trace("torch-other-device", {"device": device})
            return
        try:
            self._capture = self._started(module)
        except Exception as error:
            # Whatever goes wrong in recording, the model runs on.
            _say(f"torch is not recorded in process {self._pid}: {error}")
            _trace("torch-failed", {"reason": str(error)})
            return
        atexit.register(self._end)
        with contextlib.suppress(ImportError):
            # Processes of multiprocessing end without atexit.
            from multiprocessing.util import Finalize

            Finalize(None, self._end, exitpriority=100)

    def _started(self, module: torch.nn.Module) -> TorchCapture:
        from llmdbg.capture.about import rank_and_world
        from llmdbg.capture.start import capture_torch

        settings = self._settings
        path = Path(settings.path)
        # A process without a rank of its own does not write into another's dump.
        if rank_and_world(None)[1] == 1 and path.exists():
            path = path.with_name(f"{path.name}_process{self._pid}")
        capture = capture_torch(
            module,
            path,
            steps=None if settings.steps is None else _steps(settings.steps),
            modules=settings.modules or None,
            weights=settings.weights,
            inputs=settings.inputs,
            outputs=settings.outputs,
        )
        return capture.start()

    def _end(self) -> None:
        capture, self._capture = self._capture, None
        if capture is None or os.getpid() != self._pid:
            return
        try:
            with warnings.catch_warnings():
                # What they say is in the problems, which the command's starter prints.
                warnings.simplefilter("ignore")
                capture.stop()
        except Exception as error:
            _say(f"process {self._pid}: {error}")
        _trace("torch", {"path": str(capture.path), "problems": capture.problems})


def _steps(ranges: Sequence[tuple[int, int]]) -> range | set[int]:
    if len(ranges) == 1:
        return range(ranges[0][0], ranges[0][1] + 1)
    return {step for first, last in ranges for step in range(first, last + 1)}


def _device_number(module: torch.nn.Module) -> str:
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.device.type == "cpu":
        return os.environ.get("LOCAL_RANK", "0")
    return str(parameter.device.index or 0)


def _trace(what: str, facts: dict[str, Any]) -> None:
    directory = os.environ.get(TRACE)
    if directory:
        with contextlib.suppress(OSError):
            (Path(directory) / f"{what}.{os.getpid()}").write_text(json.dumps(facts))


def _say(message: str) -> None:
    sys.stderr.write(f"llmdbg: {message}\n")
