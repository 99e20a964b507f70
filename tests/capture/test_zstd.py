"""Dumps through zstd: the same tensors, and files that zstd's own tool understands."""

import struct

import numpy as np
import pytest
import torch

from llmdbg import LlmdbgError, capture_torch, compare, open_dump


def record(path, model, *inputs, **options):
    with torch.no_grad(), capture_torch(model, path, **options):
        for x in inputs:
            model(x)
    return open_dump(path)


def frame_sizes(file):
    """Read the sizes at the end of a file as zstd's seekable format lays them out."""
    content = file.read_bytes()
    frames, descriptor, magic = struct.unpack("<IBI", content[-9:])
    assert (descriptor, magic) == (0, 0x8F92EAB1)
    start = len(content) - 9 - 8 * frames
    assert struct.unpack("<II", content[start - 8 : start]) == (0x184D2A5E, 8 * frames + 9)
    sizes = [struct.unpack_from("<II", content, start + 8 * i) for i in range(frames)]
    assert sum(coded for coded, _ in sizes) == start - 8
    return [plain for _, plain in sizes]


def test_the_same_tensors_come_back(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    inputs = [torch.randn(5, 40), torch.zeros(1, 40), torch.empty(0, 40)]
    plain = record(tmp_path / "plain", model, *inputs)
    small = record(tmp_path / "small", model, *inputs, compress="zstd")
    assert len(plain) == len(small) > 0
    for index in range(len(plain)):
        a, b = plain.tensor(index), small.tensor(index)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    assert small.problems == []
    names = {p.suffix for p in (tmp_path / "small" / "data").iterdir()}
    assert names == {".zst"}


def test_a_tensor_is_a_frame_and_one_larger_than_a_buffer_is_several(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity())
    large = torch.arange(3_000_000, dtype=torch.float32) % 1000
    dump = record(
        tmp_path / "d", model, torch.ones(4), large, compress="zstd", max_queue_bytes=4 << 20
    )
    sizes = [frame_sizes(file)[1:] for file in sorted((tmp_path / "d" / "data").iterdir())]
    # Buffers are a quarter of the queue; the first entry of each file is its header.
    assert sizes == [[16], [1 << 20] * 11 + [12_000_000 - (11 << 20)]]
    found = dump.records["step"].to_list().index(1)
    np.testing.assert_array_equal(dump.tensor(found), np.arange(3_000_000) % 1000)


def test_compare_takes_either(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    x = torch.randn(2, 8)
    record(tmp_path / "a", model, x)
    record(tmp_path / "b", model, x, compress="zstd")
    result = compare(tmp_path / "a", tmp_path / "b")
    assert result.frame["max_absolute_error"].to_list() == [0.0] * len(result.frame)
    assert len(result.frame) > 0


def test_a_damaged_frame_is_one_tensor(tmp_path):
    model = torch.nn.Sequential(torch.nn.Identity())
    record(tmp_path / "d", model, torch.rand(1000), torch.rand(1000), compress="zstd")
    (file,) = (tmp_path / "d" / "data").iterdir()
    content = bytearray(file.read_bytes())
    # Random bytes are stored as they are: the last tensor's middle lies before the table.
    content[-2000] ^= 1
    file.write_bytes(content)
    dump = open_dump(tmp_path / "d")
    steps = dump.records["step"].to_list()
    assert dump.tensor(steps.index(0)).shape == (1000,)
    with pytest.raises(LlmdbgError, match="zst"):
        dump.tensor(steps.index(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"compress": "gzip"}, "unknown compress"), ({"compress": "zstd", "layout": "ait"}, "ait")],
)
def test_what_cannot_be_compressed(tmp_path, options, words):
    with pytest.raises(LlmdbgError, match=words):
        capture_torch(torch.nn.Identity(), tmp_path / "d", **options)
