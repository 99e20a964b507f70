"""CANN's overflow dumps, written byte for byte as the device does."""

import struct

import numpy as np
import pytest

from llmdbg.scan import scan
from llmdbg.scan.opdebug import decode, op_name
from tests.writers.ge import ge_file, write_op

TIME = 1700000000000000


def payload(*records, version=0):
    data = struct.pack("<II", 0x5A5A5A5A, version)
    for unit, values in records:
        data += struct.pack("<IIII", 1, unit, 0, 8 * len(values))
        data += struct.pack(f"<{len(values)}Q", *values)
    data += struct.pack("<II", 0, 99)
    return np.frombuffer(data.ljust(2048, b"\0"), np.uint8)


def core(task, stream, status=0x20):
    # model, stream, task, task type, context, thread, pc, para, core, block, status
    return (1, stream, task, 0, 65535, 65535, 0x1000, 0x2000, 7, 3, status)


def write(folder, data, task=5, time=TIME + 9):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"Opdebug.Node_OpDebug.{task}.3.{time}"
    path.write_bytes(ge_file(outputs=[data], op_name="Node_OpDebug", time=time))
    return path


def test_the_operator_of_the_same_task_is_named(tmp_path):
    x = np.ones((4, 4), np.float16)
    write_op(tmp_path, "Add", "layer/0/add", 4, TIME, [x], [x])
    write_op(tmp_path, "MatMul", "layer/0/q_proj", 5, TIME + 1, [x], [x])
    write(tmp_path, payload((0, core(5, 3))))
    found = scan(tmp_path)
    overflow = next(f for f in found.findings if f.kind == "npu_overflow")
    assert overflow.node == "layer_0_q_proj"
    assert "MatMul layer_0_q_proj (task 5 of stream 3), on the AI core" in overflow.sentence
    assert "pc_start 0x1000" in overflow.evidence[0] and "core_id 7" in overflow.evidence[0]
    assert found.outcome == "anomalous"


def test_every_unit_and_the_order_of_time(tmp_path):
    sdma = (1, 3, 8, 0, 0, 0, 0xAA, 0xBB, 2, 1)
    aicpu = (1, 3, 9, 0, 0, 6, 0, 4)
    write(tmp_path / "op_debug", payload((3, sdma), (2, aicpu)), time=TIME + 50)
    write(tmp_path / "op_debug", payload((1, core(7, 3))), task=6, time=TIME)
    found = scan(tmp_path)
    assert [f.details["unit"] for f in found.findings] == ["vector core", "SDMA", "AICPU"]
    assert found.findings[0].node == "task 7 of stream 3"
    assert found.findings[1].details["src_addr"] == 0xAA


def test_version_1_has_four_status_words():
    content = ge_file(outputs=[payload((0, (*core(5, 3)[:-1], 1, 2, 3, 4)), version=1)])
    (overflow,) = decode(content)
    assert [overflow.numbers[f"status_{i}"] for i in range(4)] == [1, 2, 3, 4]


def test_the_payload_before_the_magic_number():
    data = bytearray(2048)
    struct.pack_into("<6Q", data, 256, 1, 3, 5, 0, 0x1000, 0x2000)
    struct.pack_into("<3Q", data, 1024, 0xC0DE, 2, 0x10)
    (overflow,) = decode(ge_file(outputs=[np.frombuffer(bytes(data), np.uint8)]))
    assert overflow.unit == "AI core"
    assert overflow.numbers["kernel_code"] == 0xC0DE and overflow.numbers["task_id"] == 5


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, ge_file(outputs=[np.zeros(8, np.uint8)])])
def test_what_is_none_is_a_problem_and_no_end(tmp_path, content):
    write(tmp_path, payload((0, core(5, 3))))
    (tmp_path / f"Opdebug.Node_OpDebug.1.3.{TIME}").write_bytes(content)
    found = scan(tmp_path)
    assert [f.kind for f in found.findings].count("npu_overflow") == 1
    assert any("expected" in problem for problem in found.problems)


def test_names_of_every_form():
    assert op_name(f"Add.a.b.5.3.{TIME}").name == "a.b"
    long = op_name(f"Add.add.5.3.{TIME}.4.11.12.0")
    assert (long.task, long.stream, long.context, long.thread) == (5, 3, 11, 12)
    assert op_name(f"Add.add.5.{TIME}").stream is None
    assert op_name("mapping.csv") is None
