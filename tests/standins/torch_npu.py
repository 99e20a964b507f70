"""The calls of `torch_npu.npu` that dumping uses, in the order they are allowed.

Source: "Reading and comparing TorchAir dumps, and msprobe dumps", section 6.4 (the acl.json that
`set_dump` reads), and torch_npu's documentation of init_dump, set_dump, finalize_dump and the
overflow flags.
"""

import json
from pathlib import Path

MODES = {"input", "output", "all"}
KEYS = {
    "dump_path",
    "dump_mode",
    "dump_data",
    "dump_level",
    "dump_op_switch",
    "dump_debug",
    "dump_step",
    "dump_stats",
    "dump_list",
}


class Utils:
    def __init__(self, inf_nan):
        self._inf_nan = inf_nan

    def is_support_inf_nan(self):
        return self._inf_nan


class Npu:
    """Records the calls; refuses what CANN would."""

    def __init__(self, *, inf_nan=False, overflowed=False):
        self.calls = []
        self.dump = None
        self.utils = Utils(inf_nan)
        self._overflowed = overflowed

    def synchronize(self):
        self.calls.append("synchronize")

    def init_dump(self):
        self.calls.append("init_dump")

    def set_dump(self, path):
        assert self.calls[-1] == "init_dump"
        self.calls.append("set_dump")
        self.dump = json.loads(Path(path).read_text())["dump"]
        check(self.dump)

    def finalize_dump(self):
        assert "init_dump" in self.calls
        self.calls.append("finalize_dump")

    def get_npu_overflow_flag(self):
        return self._overflowed

    def clear_npu_overflow_flag(self):
        self._overflowed = False


def check(dump):
    assert set(dump) <= KEYS, set(dump) - KEYS
    assert Path(dump["dump_path"]).is_dir()
    assert dump.get("dump_mode", "output") in MODES
    assert dump.get("dump_data", "tensor") in {"tensor", "stats"}
    assert dump.get("dump_level", "all") in {"op", "kernel", "all"}
    switches = [dump.get(key) == "on" for key in ("dump_op_switch", "dump_debug")]
    assert not all(switches), "dump_debug excludes dump_op_switch"
    assert any(switches) or dump.get("dump_list"), "nothing would be dumped"
    if "dump_stats" in dump:
        assert dump["dump_data"] == "stats"
