"""A user's own measures."""

import ml_dtypes
import numpy as np
import pytest

from llmdbg import custom
from llmdbg.errors import UserError


def written(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


def test_the_function_gets_both_tensors_golden_first(tmp_path):
    path = written(tmp_path, "def gap(golden, mine):\n    return (mine - golden).sum(), 'ok'\n")
    measure = custom.load(f"{path}:gap")
    value, message = measure(np.array([1.0, 2.0]), np.array([1.5, 4.0]))
    assert measure.name == "gap"
    assert value == 2.5
    assert message == "gap: ok"


def test_an_exception_is_a_message_on_its_row(tmp_path):
    path = written(tmp_path, "def bad(golden, mine):\n    raise RuntimeError('no such axis')\n")
    value, message = custom.load(f"{path}:bad")(np.zeros(1), np.zeros(1))
    assert value is None
    assert message == "bad: RuntimeError: no such axis"


def test_a_result_of_the_wrong_form_is_a_message_too(tmp_path):
    path = written(tmp_path, "def bad(golden, mine):\n    return 3\n")
    value, message = custom.load(f"{path}:bad")(np.zeros(1), np.zeros(1))
    assert value is None
    assert message.startswith("bad: TypeError")


def test_a_file_that_imports_torch_gets_torch_tensors(tmp_path):
    text = """
import torch

def kind(golden, mine):
    return f"{type(golden).__name__} {golden.dtype} {golden.tolist()}", ""
"""
    measure = custom.load(f"{written(tmp_path, text)}:kind")
    for array, expected in (
        (np.array([1.5], np.float32), "Tensor torch.float32 [1.5]"),
        (np.array([-2.5], ml_dtypes.bfloat16), "Tensor torch.bfloat16 [-2.5]"),
        (np.array([1.5], ml_dtypes.float8_e4m3fn), "Tensor torch.float8_e4m3fn [1.5]"),
        (np.array(7, np.int64), "Tensor torch.int64 7"),
    ):
        array.flags.writeable = False
        assert measure(array, array) == (expected, "")


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ("mine.py", "file.py:function"),
        ("mine.txt:f", "file.py:function"),
        ("missing.py:f", "no such file"),
        ("mine.py:absent", "no function 'absent'"),
        ("mine.py:one", "two tensors"),
        ("broken.py:f", "SyntaxError"),
        ("exits.py:f", "ValueError: at import"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_the_work_begins(
    tmp_path, monkeypatch, specification, words
):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "def one(x):\n    return 0, ''\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "exits.py").write_text("raise ValueError('at import')\n")
    with pytest.raises(UserError, match=words):
        custom.load(specification)


def test_a_column_is_numbers_only_when_all_are():
    assert custom.column([1, None, 2.5]) == [1.0, None, 2.5]
    assert custom.column([1, "a", None]) == ["1", "a", None]
