"""GE's dump of one executed operator, byte for byte.

Source: "Reading and comparing TorchAir dumps", sections 1.1 (container), 1.4 (protobuf fields), 1.6
(file names). The header is a protobuf message, written here field by field.
"""

import struct
from pathlib import Path

import numpy as np

NUMBERS = {
    "float32": 1, "float16": 2, "int8": 3, "uint8": 4, "int16": 5, "uint16": 6, "int32": 7,
    "int64": 8, "uint32": 9, "uint64": 10, "bool": 11, "float64": 12, "complex64": 16,
    "complex128": 17,
}  # fmt: skip
ND, FRACTAL_NZ = 2, 29
NOW = 1734070081497000


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def shape(dims) -> bytes:
    return block(1, b"".join(map(varint, dims)))


def tensor(array, *, output: bool, layout=ND, original=None, size=None, address=0x1200) -> bytes:
    """An OpInput or OpOutput; they number what they share differently."""
    fields = (
        {"size": 6, "original": 7, "address": 9}
        if output
        else {"size": 5, "original": 6, "address": 8}
    )
    return b"".join(
        (
            number(1, NUMBERS[array.dtype.name]),
            number(2, layout),
            block(3, shape(array.shape)),
            number(fields["size"], array.nbytes if size is None else size),
            block(fields["original"], shape(array.shape if original is None else original)),
            number(fields["address"], address),
        )
    )


def ge_file(inputs=(), outputs=(), *, op_name="", time=1700000000000000, more=b"", **options):
    """The bytes of a dump; inputs lie before outputs although outputs have the lower number."""
    header = block(1, "2.0") + number(2, time)
    header += b"".join(block(3, tensor(a, output=True, **options)) for a in outputs)
    header += b"".join(block(4, tensor(a, output=False, **options)) for a in inputs)
    if op_name:
        header += block(6, op_name)
    header += more
    payload = b"".join(np.ascontiguousarray(a).tobytes() for a in (*inputs, *outputs))
    return struct.pack("<Q", len(header)) + header + payload


def write_op(
    directory: Path, op_type: str, name: str, task: int, time: int, inputs=(), outputs=(), suffix=""
) -> Path:
    """One operator's file, under the name that the device writer gives it."""
    directory.mkdir(parents=True, exist_ok=True)
    spelled = name
    for char in " ./\\":
        spelled = spelled.replace(char, "_")
    path = directory / f"{op_type}.{spelled}.{task}.3.{time}{suffix}"
    path.write_bytes(ge_file(inputs, outputs, op_name=name, time=time))
    return path


def write_run(root, random, *, ranks=(None,), devices=("0",), time="20250101120000", steps=2):
    """Two operators a step; gives the arrays by (rank or device, step, node, role)."""
    arrays = {}
    for rank in ranks:
        top = root if rank is None else root / f"worldsize{len(ranks)}_global_rank{rank}"
        for device in devices:
            for step in range(steps):
                leaf = top / time / device / "graph_1" / "11" / str(step)
                x = random.normal(size=(2, 3)).astype(np.float16)
                y = random.normal(size=(2, 3)).astype(np.float32)
                write_op(leaf, "Mul", "Mul_1/Square", 7, NOW + step, [x], [y])
                write_op(leaf, "Add", "Add", 8, NOW + step + 5, [y], [x])
                who = int(device) if rank is None else rank
                arrays |= {
                    (who, step, "Mul_1/Square", "input"): x,
                    (who, step, "Mul_1/Square", "output"): y,
                    (who, step, "Add", "input"): y,
                    (who, step, "Add", "output"): x,
                }
    return arrays
