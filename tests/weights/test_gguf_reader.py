"""Reading headers: every type of value, and files that lie."""

from __future__ import annotations

import struct

import pytest
import torch

from omniform.core.errors import WeightsError
from omniform.weights.gguf.reader import read_gguf


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def row(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(pairs=(), rows=(), data=b"", *, version=3, tensors=None, keys=None, magic=b"GGUF", alignment=32) -> bytes:
    head = magic + struct.pack(
        "<IQQ", version, len(rows) if tensors is None else tensors, len(pairs) if keys is None else keys
    )
    head += b"".join(pairs) + b"".join(rows)
    return head + b"\0" * (-len(head) % alignment) + data


VALUES = {
    0: ("B", 200, 200), 1: ("b", -5, -5), 2: ("H", 40000, 40000), 3: ("h", -300, -300), 4: ("I", 2**31, 2**31),
    5: ("i", -(2**30), -(2**30)), 6: ("f", 0.5, 0.5), 7: ("B", 1, True), 10: ("Q", 2**63, 2**63),
    11: ("q", -(2**62), -(2**62)), 12: ("d", 0.1, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("version", [2, 3])
def test_every_type_of_value(tmp_path, version):
    pairs = [pair(f"k{kind}", kind, struct.pack("<" + form, value)) for kind, (form, value, _) in VALUES.items()]
    pairs += [
        pair(f"a{kind}", 9, struct.pack("<IQ", kind, 2) + struct.pack("<2" + form, value, value))
        for kind, (form, value, _) in VALUES.items()
    ]
    pairs.append(pair("text", 8, text("ä\u2581")))
    pairs.append(pair("texts", 9, struct.pack("<IQ", 8, 3) + text("a") + text("") + text("bc")))
    pairs.append(pair("none", 9, struct.pack("<IQ", 8, 0)))
    pairs.append(pair("nested", 9, struct.pack("<IQ", 9, 2) + 2 * (struct.pack("<IQ", 0, 2) + b"\x01\x02")))
    path = tmp_path / "x.gguf"
    path.write_bytes(file(pairs, version=version))
    found = read_gguf(path)
    assert found.version == version
    expected = {f"k{kind}": value for kind, (_, _, value) in VALUES.items()}
    expected |= {f"a{kind}": [value, value] for kind, (_, _, value) in VALUES.items()}
    expected |= {"text": "ä\u2581", "texts": ["a", "", "bc"], "none": [], "nested": [[1, 2], [1, 2]]}
    assert found.metadata == expected
    assert type(found.metadata["k7"]) is bool


@pytest.mark.parametrize("alignment", [32, 64])
def test_tensors_are_views(tmp_path, alignment):
    pairs = [pair("general.alignment", 4, struct.pack("<I", alignment))]
    rows = [row("a", (3, 2), 0, 0), row("b", (32, 2), 2, alignment), row("c", (), 0, 2 * alignment)]
    data = struct.pack("<6f", *range(6)).ljust(alignment, b"\0") + bytes(range(36)).ljust(alignment, b"\0") + b"\0" * 4
    if alignment == 32:
        rows[2] = row("c", (), 0, 96)
        data = data[:32] + data[32:68].ljust(64, b"\0") + b"\0" * 4
    path = tmp_path / "x.gguf"
    path.write_bytes(file(pairs, rows, data, alignment=alignment))
    found = read_gguf(path)
    assert {name: (info.shape, info.kind.name) for name, info in found.tensors.items()} == {
        "a": ((2, 3), "F32"), "b": ((2, 32), "Q4_0"), "c": ((1,), "F32"),
    }  # fmt: skip
    assert torch.equal(found.raw("a").view(torch.float32), torch.arange(6.0).view(2, 3))
    assert torch.equal(found.raw("b"), torch.arange(36, dtype=torch.uint8).view(2, 18))
    assert found.raw("a").data_ptr() + alignment == found.raw("b").data_ptr()


HUGE = 2**62
F32 = row("a", (4,), 0, 0)
BAD = {
    "not gguf": (file(magic=b"GGML"), "begins with GGUF"),
    "empty": (b"", "begins with GGUF|cannot be read"),
    "only the magic": (b"GGUF", "cut short"),
    "version 1": (file(version=1), "found 1"),
    "version 4": (file(version=4), "found 4"),
    "big-endian": (file(version=3 << 24), "found 3, big-endian"),
    "tensors without end": (file(tensors=HUGE), "damaged.*tensors"),
    "keys without end": (file(keys=HUGE), "damaged.*keys of metadata"),
    "more keys than bytes": (file(keys=1000), "cut short.*keys"),
    "a key without end": (file([struct.pack("<Q", HUGE) + b"a" * 20]), "at most 65535"),
    "a text without end": (file([pair("k", 8, struct.pack("<Q", HUGE))]), "cut short"),
    "an array without end": (file([pair("k", 9, struct.pack("<IQ", 0, HUGE))]), "items of 'k'"),
    "an array of texts without end": (file([pair("k", 9, struct.pack("<IQ", 8, HUGE))]), "items of 'k'"),
    "arrays in arrays": (file([pair("k", 9, struct.pack("<IQ", 9, 1) * 20 + bytes(64))]), "arrays in one another"),
    "an unknown type of value": (file([pair("k", 13, bytes(8))]), "found 13"),
    "an unknown type in an array": (file([pair("k", 9, struct.pack("<IQ", 99, 1) + bytes(16))]), "found 99"),
    "a key twice": (file([pair("k", 0, b"\1"), pair("k", 0, b"\2")]), "'k' twice"),
    "a tensor twice": (file(rows=[F32, F32], data=bytes(64)), "'a' twice"),
    "an unknown type": (file(rows=[row("a", (4,), 77, 0)], data=bytes(64)), "unknown type.*MXFP4.*found type 77"),
    "axes without end": (file(rows=[row("a", (1,) * 9, 0, 0)], data=bytes(64)), "at most 8 axes"),
    "numbers without end": (file(rows=[row("a", (HUGE, HUGE), 0, 0)], data=bytes(64)), "a shape that can be"),
    "half a block": (file(rows=[row("a", (48,), 2, 0)], data=bytes(64)), "whole blocks of 32"),
    "behind the end": (file(rows=[row("a", (4,), 0, 4096)], data=bytes(64)), "cut short.*end within"),
    "far behind the end": (file(rows=[row("a", (4,), 0, 2**63)], data=bytes(64)), "cut short.*end within"),
    "cut data": (file(rows=[row("a", (4,), 0, 0)], data=bytes(15)), "cut short.*end within"),
    "off the alignment": (file(rows=[row("a", (4,), 0, 4)], data=bytes(64)), "multiple of 32"),
    "overlapping": (file(rows=[row("a", (16,), 0, 0), row("b", (4,), 0, 32)], data=bytes(99)), "apart from 'a'"),
    "no power of two": (file([pair("general.alignment", 4, struct.pack("<I", 24))]), "power of two"),
    "no alignment": (file([pair("general.alignment", 4, bytes(4))]), "power of two"),
    "alignment of text": (file([pair("general.alignment", 8, text("32"))]), "power of two"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_file_cannot_be(tmp_path, name):
    raw, words = BAD[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match=f"(?s)x.gguf.*({words})"):
        read_gguf(path)


def test_any_cut_is_told(tmp_path):
    """A file that ends at any byte of its header is refused in words, and a header's any byte may be another."""
    pairs = [pair("general.architecture", 8, text("llama")), pair("n", 9, struct.pack("<IQ", 4, 3) + bytes(12))]
    whole = file(pairs, [row("a", (4, 2), 0, 0)], bytes(32))
    path = tmp_path / "x.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_gguf(path)
    for at in range(len(whole) - 32):
        for value in (0, 1, 127, 255):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                found = read_gguf(path)
            except WeightsError:
                continue
            assert all(info.start + info.nbytes <= len(whole) for info in found.tensors.values())
