"""torchair's configuration as its releases have it; anything undocumented is refused.

Source: "Reading and comparing TorchAir dumps, and msprobe dumps", sections 6.1 (attributes the
helpers of the peers set) and 6.2 (options, values and defaults of CompilerConfig).
"""

import re
from pathlib import Path


class Option:
    """One option with its accepted values."""

    def __init__(self, default, accepts=lambda _value: True):
        self.value, self.accepts = default, accepts


def one_of(*values):
    return lambda value: value in values


def matches(pattern):
    return lambda value: re.fullmatch(pattern, value) is not None


def existing_directory(value):
    return Path(value).is_dir()


def existing_file(value):
    return Path(value).is_file()


class Group:
    """Options of one name; setting any other raises, as torchair does."""

    def __init__(self, **options):
        object.__setattr__(self, "options", options)

    def __getattr__(self, name):
        try:
            option = self.options[name]
        except KeyError:
            raise AttributeError(name) from None
        return option.value if isinstance(option, Option) else option

    def __setattr__(self, name, value):
        option = self.options.get(name)
        if not isinstance(option, Option) or not option.accepts(value):
            raise ValueError(f"no option {name} that takes {value!r}")
        option.value = value


def compiler_config(*, path="path", steps=True, fx_path=True):
    """A configuration whose directories are called `path`, or `_path` as for a while."""
    dump = {
        "enable_dump": Option(False, one_of(True, False)),
        "dump_path": Option("./", existing_directory),
        "dump_mode": Option("all", one_of("all", "input", "output")),
        "quant_dumpable": Option(False, one_of(True, False)),
    }
    if steps:
        dump["dump_step"] = Option("", matches(r"((\d+|\d+-\d+)(\||$))*"))
        dump["dump_layer"] = Option("", matches(r'[0-9a-zA-Z_" "/\\.]*'))
    data = {"type": Option(None, one_of(None, "npy")), "filter": Option(None)}
    if fx_path:
        data[path] = Option(None, existing_directory)
    return Group(
        debug=Group(
            graph_dump=Group(
                type=Option(None, one_of(None, "txt", "pbtxt", "py")),
                **{path: Option(None, existing_directory)},
            ),
            data_dump=Group(**data),
        ),
        dump_config=Group(**dump),
        fusion_config=Group(fusion_switch_file=Option(None, existing_file)),
    )
