"""What the stand-in model computes, in numpy, and the file format, read by hand.

Formulas: `tests/standins/atb/runtime.cpp`. File format: "ATB inference dump", section 1.1.
"""

import numpy as np

DTYPES = {"0": np.float32, "1": np.float16, "9": np.int64}


def step(index):
    """Every tensor of one forward, by operation path and file."""
    ids = np.array([1, 2, 3] if index == 0 else [(index + 3) % 8], dtype=np.int64)
    table = (np.arange(32, dtype=np.float64) / 8).reshape(8, 4)
    rows, columns = np.mgrid[0:4, 0:4]
    weight = ((3 * rows + 5 * columns) % 7 - 3) / 4
    x = table[ids]
    y = x @ weight.T
    z = y + x
    half = np.float16
    embedding = {
        "before/intensor0.bin": ids,
        "before/intensor1.bin": table.astype(half),
        "after/outtensor0.bin": x.astype(half),
    }
    linear = {
        "before/intensor0.bin": x.astype(half),
        "before/intensor1.bin": weight.astype(half),
        "after/outtensor0.bin": y.astype(half),
    }
    add = {
        "before/intensor0.bin": y.astype(half),
        "before/intensor1.bin": x.astype(half),
        "after/outtensor0.bin": z.astype(np.float32),
    }
    layer = {
        "before/intensor0.bin": x.astype(half),
        "before/intensor1.bin": weight.astype(half),
        "after/outtensor0.bin": z.astype(np.float32),
    }
    operations = {
        "0_WordEmbedding": embedding,
        "0_WordEmbedding/0_GatherOperation": embedding,
        "0_WordEmbedding/0_GatherOperation/0_GatherKernel": embedding,
        "1_TinyLayer": layer,
        "1_TinyLayer/0_LinearOperation": linear,
        "1_TinyLayer/0_LinearOperation/0_MatMulKernel": linear,
        "1_TinyLayer/1_ElewiseOperation": add,
        "1_TinyLayer/1_ElewiseOperation/0_AddKernel": add,
    }
    return {
        f"{operation}/{file}": values
        for operation, files in operations.items()
        for file, values in files.items()
    }


def read_bin(path):
    """Header as a dict, and the values or None."""
    raw = path.read_bytes()
    head, _, payload = raw.partition(b"$End=1\n")
    header = dict(line.split("=", 1) for line in head.decode().splitlines())
    if header["$Object.Count"] == "0":
        return header, None
    shape = [int(size) for size in header["dims"].split(",")]
    return header, np.frombuffer(payload, DTYPES[header["dtype"]]).reshape(shape)


def tensors(directory):
    """Every `.bin` below an execution's directory: relative path to header and values."""
    return {
        str(path.relative_to(directory)): read_bin(path) for path in directory.rglob("*tensor*.bin")
    }
