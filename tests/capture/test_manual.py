"""`dump_data`: golden tensors saved by hand, with the candidate's file of each."""

import json
import os
import threading

import pytest
import torch

from llmdbg import dump_data
from llmdbg._core import LlmdbgError


def folder_of(base):
    return base / "ait_dump" / f"{os.getpid()}_-1" / "golden_tensor"


def test_every_token_of_a_name_is_kept(tmp_path):
    my = tmp_path / "my.bin"
    for token in (0, 1, 2):
        for name in ("q_proj", 7):
            dump_data(token, name, torch.full((2,), float(token)), my, tmp_path)
    folder = folder_of(tmp_path)
    table = json.loads((folder / "metadata.json").read_text())
    assert {name: list(tokens) for name, tokens in table.items()} == {
        "q_proj": ["0", "1", "2"],
        "7": ["0", "1", "2"],
    }
    golden, candidate = table["q_proj"]["2"]
    assert (golden, candidate) == (str(folder / "2" / "q_proj_tensor.pth"), str(my))
    assert torch.load(golden, weights_only=True).tolist() == [2, 2]


def test_a_view_is_saved_alone_and_as_it_is(tmp_path):
    big = torch.arange(1_000_000.0)
    path = dump_data(0, "view", big[5:8], "my.bin", tmp_path)
    big.zero_()
    assert path.stat().st_size < 10_000
    assert torch.load(path, weights_only=True).tolist() == [5, 6, 7]


def test_calls_at_the_same_time_lose_nothing(tmp_path):
    def work(name):
        for token in range(20):
            dump_data(token, name, torch.tensor([token]), "my.bin", tmp_path)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table = json.loads((folder_of(tmp_path) / "metadata.json").read_text())
    assert {n: len(t) for n, t in table.items()} == {f"t{i}": 20 for i in range(6)}


def test_a_golden_tensor_is_never_overwritten(tmp_path):
    first = dump_data(0, "x", torch.zeros(1), "my.bin", tmp_path)
    with pytest.raises(LlmdbgError, match="token 0 already"):
        dump_data(0, "x", torch.ones(1), "my.bin", tmp_path)
    assert torch.load(first, weights_only=True).item() == 0


@pytest.mark.parametrize(
    ("token", "name", "tensor", "my", "words"),
    [
        (-1, "x", torch.ones(1), "my.bin", "token_id"),
        (True, "x", torch.ones(1), "my.bin", "token_id"),
        (0, "", torch.ones(1), "my.bin", "data_id"),
        (0, "../x", torch.ones(1), "my.bin", "data_id"),
        (0, "x", [1.0], "my.bin", "golden_data"),
        (0, "x", torch.ones(1), "", "my_path"),
    ],
)
def test_arguments_that_cannot_be_right(tmp_path, token, name, tensor, my, words):
    with pytest.raises(LlmdbgError, match=words):
        dump_data(token, name, tensor, my, tmp_path)
    assert list(tmp_path.iterdir()) == []
