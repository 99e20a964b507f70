"""The environment contract, value by value ("ATB inference dump", sections 4.1, 4.2, 4.6)."""

from pathlib import Path

import pytest

from llmdbg.capture.atb import (
    AtbDumpOptions,
    OptionError,
    checked_executions,
    overflow_environment,
    probe_config,
    probe_environment,
    unsupported_flags,
)
from llmdbg.capture.atb_probe import Probe, ProbeEra, ProbeError

OLD = Probe(Path("/p/libatb_probe_abi0.so"), ProbeEra.ENVIRONMENT, frozenset(), "test")
NEWER = Probe(
    Path("/p/libatb_probe_abi0.so"),
    ProbeEra.ENVIRONMENT,
    frozenset({"ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER", "ATB_TIMESTAMP"}),
    "test",
)
HYBRID = Probe(Path("/p/libatb_probe_abi1.so"), ProbeEra.HYBRID, NEWER.variables, "test")
JSON = Probe(Path("/p/libatb_probe_abi1.so"), ProbeEra.JSON, frozenset(), "test")


def environment(probe=NEWER, base=None, **options):
    return probe_environment(
        AtbDumpOptions(output=Path("/out"), **options), probe, base or {}, timestamp="TS", pid=7
    )


def test_defaults():
    assert environment() == {
        "ATB_SAVE_TENSOR": "1",
        "ATB_SAVE_TENSOR_TIME": "1",
        "ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER": "1",
        "ATB_OUTPUT_DIR": "/out/",
        "ATB_DUMP_TYPE": "tensor|model",
        "ATB_SAVE_CHILD": "1",
        "ATB_SAVE_TENSOR_RANGE": "0,0",
        "ATB_SAVE_TILING": "0",
        "ATB_SAVE_TENSOR_PART": "2",
        "ATB_SAVE_CPU_PROFILING": "0",
        "ATB_CUR_PID": "7",
        "ATB_AIT_LOG_LEVEL": "1",
        "ATB_SAVE_SYMLINK": "0",
        "ATB_TIMESTAMP": "TS",
        "LD_PRELOAD": "/p/libatb_probe_abi0.so",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only_description": True}, {"ATB_SAVE_TENSOR": "2"}),
        ({"time": 0}, {"ATB_SAVE_TENSOR_TIME": "0", "ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER": "0"}),
        ({"time": 2}, {"ATB_SAVE_TENSOR_TIME": "2", "ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER": "0"}),
        ({"time": 3}, {"ATB_SAVE_TENSOR_TIME": "1", "ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER": "1"}),
        ({"ids": "2,3_1"}, {"ATB_SAVE_TENSOR_IDS": "2,3_1"}),
        ({"names": "SelfAttention,Linear"}, {"ATB_SAVE_TENSOR_RUNNER": "selfattention,linear"}),
        ({"types": ("model", "op")}, {"ATB_DUMP_TYPE": "model|op"}),
        (
            {"types": ("tensor", "stats")},
            {"ATB_DUMP_TYPE": "tensor|stats", "ATB_SAVE_TENSOR_STATISTICS": "1"},
        ),
        ({"types": ("stats",)}, {"ATB_DUMP_TYPE": "stats|tensor"}),
        ({"types": ("onnx", "layer")}, {"ATB_DUMP_SUB_PROC_INFO_SAVE_PATH": "/out/7"}),
        ({"children": False}, {"ATB_SAVE_CHILD": "0"}),
        ({"executions": "1,3,5,7"}, {"ATB_SAVE_TENSOR_RANGE": "1,3,5,7"}),
        ({"tiling": True}, {"ATB_SAVE_TILING": "1"}),
        ({"part": 0}, {"ATB_SAVE_TENSOR_PART": "0"}),
        ({"types": ("cpu_profiling",)}, {"ATB_SAVE_CPU_PROFILING": "1"}),
        ({"device": "13"}, {"ATB_DEVICE_ID": "13"}),
        ({"log_level": "critical"}, {"ATB_AIT_LOG_LEVEL": "5"}),
        ({"deduplicate": True}, {"ATB_SAVE_SYMLINK": "1"}),
        (
            {"seed": 2024},
            {
                "LCCL_DETERMINISTIC": "1",
                "HCCL_DETERMINISTIC": "true",
                "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
                "ATB_LLM_LCOC_ENABLE": "0",
                "PYTHONHASHSEED": "2024",
            },
        ),
    ],
)
def test_each_flag(options, expected):
    assert environment(**options).items() >= expected.items()


def test_what_an_earlier_run_left_is_removed():
    left = dict.fromkeys(
        (
            "ATB_SAVE_TENSOR_IDS",
            "ATB_SAVE_TENSOR_RUNNER",
            "ATB_SAVE_TENSOR_STATISTICS",
            "ATB_DUMP_SUB_PROC_INFO_SAVE_PATH",
            "ATB_DEVICE_ID",
            "ATB_DUMP_CONFIG",
            "ATB_CHECK_TYPE",
            "ATB_EXIT",
        ),
        "x",
    )
    found = environment(base={**left, "HOME": "/root"})
    assert not set(left) & set(found)
    assert found["HOME"] == "/root"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "/p/libatb_probe_abi0.so"),
        ("/lib/a.so", "/p/libatb_probe_abi0.so:/lib/a.so"),
        (":/lib/a.so::/lib/b.so:", "/p/libatb_probe_abi0.so:/lib/a.so:/lib/b.so"),
        ("/lib/a.so /p/libatb_probe_abi0.so", "/p/libatb_probe_abi0.so:/lib/a.so"),
    ],
)
def test_preload_has_no_empty_element(before, after):
    assert environment(base={"LD_PRELOAD": before})["LD_PRELOAD"] == after


def test_the_oldest_probe_cannot_split_by_side():
    assert environment(OLD).items() >= {
        "ATB_SAVE_TENSOR_TIME": "1",
        "ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER": "0",
    }.items()  # fmt: skip
    asked = AtbDumpOptions(output=Path("/out"), time=3)
    assert unsupported_flags(asked, OLD) == [
        "--save-time 3: this probe cannot choose by side; all is taken after"
    ]
    assert unsupported_flags(asked, NEWER) == []


@pytest.mark.parametrize(
    ("given", "old", "hybrid"),
    [("all", "0,2147483646", "all"), ("none", None, "none"), ("4", "4,4", "4,4")],
)
def test_ranges_of_each_era(given, old, hybrid):
    assert environment(OLD, executions=given).get("ATB_SAVE_TENSOR_RANGE") == old
    assert environment(HYBRID, executions=given)["ATB_SAVE_TENSOR_RANGE"] == hybrid


@pytest.mark.parametrize(("given", "expected"), [("0,0", "0,0"), ("3", "3,3"), ("01,2", "1,2")])
def test_execution_range_is_normalised(given, expected):
    assert checked_executions(given) == expected


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("1,2,3", "3 numbers do not make pairs; to take one execution write 3,3"),
        ("5,2", "5,2 ends before it begins"),
        ("0,0,9,1", "9,1 ends before it begins"),
        ("a", "expected pairs of numbers"),
        ("", "expected pairs of numbers"),
        ("1;2", "expected pairs of numbers"),
        ("-1,2", "expected pairs of numbers"),
        ("9999999999,9999999999", "expected pairs of numbers"),
    ],
)
def test_execution_range_that_would_select_nothing(given, reason):
    with pytest.raises(OptionError, match="--execute-range") as error:
        AtbDumpOptions(output=Path("/out"), executions=given)
    assert reason in str(error.value)


@pytest.mark.parametrize("device", ["0", "3", "7", "15", "0,8"])
def test_any_device_number(device):
    assert AtbDumpOptions(output=Path("/out"), device=device).device == device


@pytest.mark.parametrize(
    "options",
    [
        {"types": ("tensors",)},
        {"time": 4},
        {"part": 3},
        {"ids": "2, 3"},
        {"ids": "2_"},
        {"device": "npu:0"},
        {"log_level": "loud"},
    ],
)
def test_values_that_cannot_be_meant(options):
    with pytest.raises(OptionError, match=r"^--"):
        AtbDumpOptions(output=Path("/out"), **options)


def test_configuration_file():
    options = AtbDumpOptions(
        output=Path("/out"), executions="2,5", ids="1", names="Linear", device="0,1"
    )
    assert probe_config(options) == {
        "task": "tensor",
        "dump_enable": True,
        "exec_range": "2,5",
        "ids": "1",
        "op_name": "linear",
        "save_child": True,
        "device": "0,1",
        "filter_level": 0,
    }


@pytest.mark.parametrize(
    ("options", "task", "enabled"),
    [
        ({"types": ("stats",)}, "statistics", True),
        ({"types": ("tensor", "stats")}, "all", True),
        ({"only_description": True}, "statistics", True),
        ({"types": ("model", "layer")}, "statistics", False),
    ],
)
def test_configuration_task(options, task, enabled):
    config = probe_config(AtbDumpOptions(output=Path("/out"), **options))
    assert (config["task"], config["dump_enable"]) == (task, enabled)


def test_configuration_path_is_passed_on():
    options = AtbDumpOptions(output=Path("/out"))
    found = probe_environment(
        options,
        JSON,
        {},
        timestamp="TS",
        pid=7,
        config=Path("/out/c.json"),
        preload=[Path("/tmp/p")],
    )
    assert found["ATB_DUMP_CONFIG"] == "/out/c.json"
    assert found["LD_PRELOAD"] == "/tmp/p"


def test_overflow_environment():
    found = overflow_environment(Path("/out/"), NEWER, {"ATB_DUMP_CONFIG": "x"}, stop=True)
    assert found == {
        "ATB_CHECK_TYPE": "1",
        "ATB_EXIT": "1",
        "ATB_OUTPUT_DIR": "/out",
        "ATB_AIT_LOG_LEVEL": "1",
        "ATB_DUMP_TYPE": "none",
        "LD_PRELOAD": "/p/libatb_probe_abi0.so",
    }
    assert overflow_environment(Path("/out"), NEWER, {})["ATB_EXIT"] == "0"


def test_overflow_needs_a_probe_that_checks():
    with pytest.raises(ProbeError, match="answers no to ATB's overflow check"):
        overflow_environment(Path("/out"), JSON, {})
