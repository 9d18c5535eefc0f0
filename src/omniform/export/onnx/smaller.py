"""Graphs in fewer bits: halves, or matrices of eight bits, by onnxruntime's own tools."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from omniform.core.errors import InputError
from omniform.export.onnx.graphs import quiet

DTYPES: Final = ("fp32", "fp16")
QUANTIZED: Final = ("int8",)


def check_bits(dtype: str, quantize: str | None) -> None:
    """Refuse what there is no such thing of.

    Raises:
        InputError: no such dtype, or kind of quantizing, or both at once.
    """
    if dtype not in DTYPES:
        raise InputError("no such dtype", where="dtype", expected=" or ".join(DTYPES), found=repr(dtype)[:80])
    if quantize is not None and quantize not in QUANTIZED:
        raise InputError("no such kind", where="quantize", expected=" or ".join(QUANTIZED), found=repr(quantize)[:80])
    if quantize is not None and dtype != "fp32":
        raise InputError("matrices are quantized from fp32", where="dtype", expected="fp32", found=dtype)


def halve(path: Path) -> None:
    """Make the numbers of a file halves, in place; what goes in and out stays as it is."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        halves = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True, disable_shape_infer=True)
    beside = path.with_name(f"{path.name}_data")
    external = beside.exists()
    beside.unlink(missing_ok=True)
    onnx.save_model(halves, str(path), save_as_external_data=external, location=beside.name)


def quantize(path: Path) -> None:
    """Make the matrices of a file eight bits, in place; what they are multiplied with is quantized as it comes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    beside = path.with_name(f"{path.name}_data")
    external = beside.exists()
    folder = path.with_name(f"{path.stem}.int8")
    folder.mkdir()
    made = folder / path.name
    with quiet():
        quantize_dynamic(
            path,
            made,
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=external,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            extra_options={"MatMulConstBOnly": True},
        )
    beside.unlink(missing_ok=True)
    for file in folder.iterdir():
        file.replace(path if file == made else beside)
    folder.rmdir()
