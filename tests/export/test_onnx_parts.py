"""Encoders, encoder-decoders, pictures and sounds as ONNX, run by onnxruntime alone on sizes of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
import torch
from onnx_alone import alone
from torch import Tensor

import omniform
from omniform.architectures.model import Model
from omniform.core.outputs import BaseModelOutput
from omniform.export.onnx.layout import CERTIFICATE, read_layout

TEXT = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.4,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4, "initializer_range": 0.4,
}  # fmt: skip
T5 = {
    "vocab_size": 61, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip


def made(name: str, model_type: str, **config: object) -> Model:
    """A tiny model with fresh weights."""
    torch.manual_seed(4)
    kind = getattr(omniform, name)
    return kind.from_config(omniform.AutoConfig.for_model(model_type, **config)).eval()


def masked(rows: int, length: int, pad: str) -> dict[str, Tensor]:
    """Ids and a mask."""
    ids = torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    count = length // 3
    if pad == "left":
        mask[0, :count] = 0
    elif pad == "right":
        mask[0, length - count :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def close(found: Mapping[str, object], expected: Mapping[str, Tensor]) -> None:
    for name, right in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), right, atol=2e-5, rtol=1e-4, msg=name)


def weighed(path: Path) -> int:
    """Bytes of a file's weights."""
    return sum(math.prod(tensor.dims) * 4 for tensor in onnx.load(path).graph.initializer)


@torch.no_grad()
def test_bert_of_any_rows_and_lengths(tmp_path: Path) -> None:
    model = made("AutoModelForSequenceClassification", "bert", **TEXT)
    model.export("onnx", tmp_path / "out", task="text-classification", quantize=None)
    graph = read_layout(tmp_path / "out").graphs["model"]
    assert [port.name for port in graph.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [port.name for port in graph.outputs] == ["logits"]
    calls, expected = {}, {}
    for rows, length, pad in ((1, 1, "none"), (5, 200, "left"), (2, 33, "right"), (4, 2, "none")):
        given = masked(rows, length, pad)
        given["token_type_ids"] = torch.arange(length).ge(length // 2).long().expand(rows, -1)
        calls[f"{rows}x{length}/model.onnx"] = given
        expected[f"{rows}x{length}/logits"] = model(**given).logits
    close(alone(tmp_path / "out", calls, tmp_path), expected)


@torch.no_grad()
def test_t5_in_three_graphs_and_a_merged_one(tmp_path: Path) -> None:
    model = made("AutoModelForSeq2SeqLM", "t5", **T5)
    done = model.export("onnx", tmp_path / "out", task="text2text-generation-with-past")
    assert sorted(done.files.values()) == [
        "decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx", "encoder_model.onnx",
    ]  # fmt: skip
    merged = read_layout(tmp_path / "out").graphs["decoder_merged"]
    assert {port.name for port in merged.inputs} == {
        "input_ids", "encoder_attention_mask", "encoder_hidden_states", "use_cache_branch",
        *(f"past_key_values.0.{who}.{kind}" for who in ("decoder", "encoder") for kind in ("key", "value")),
    }  # fmt: skip
    weights = {name: weighed(tmp_path / "out" / name) for name in done.files.values()}
    assert weights["decoder_model_merged.onnx"] < 1.2 * weights["decoder_model.onnx"], "the two steps share theirs"
    calls: dict[str, dict[str, Tensor]] = {}
    expected: dict[str, Tensor] = {}
    for rows, length, pad in ((1, 1, "none"), (4, 150, "left"), (2, 31, "right")):
        name = f"{rows}x{length}"
        given = masked(rows, length, pad)
        hidden = model.model.encoder(**given).last_hidden_state
        calls[f"{name} read/encoder_model.onnx"] = given
        expected[f"{name} read/last_hidden_state"] = hidden
        ids = torch.randint(3, 60, (rows, 9), generator=torch.Generator().manual_seed(1))
        whole = BaseModelOutput(last_hidden_state=hidden)
        asked = {"encoder_outputs": whole, "attention_mask": given["attention_mask"]}
        first = model(decoder_input_ids=ids[:, :4], use_cache=True, **asked)
        past = first.past_key_values
        held = {
            f"past_key_values.0.{who}.{kind}": tensor.clone()
            for who, cache in (("decoder", past.self_attention_cache), ("encoder", past.cross_attention_cache))
            for kind, tensor in zip(("key", "value"), cache[0], strict=True)
        }
        later = model(decoder_input_ids=ids[:, 4:], past_key_values=past, **asked)
        mask = {"encoder_attention_mask": given["attention_mask"]}
        empty = {key: value[:, :, :0] for key, value in held.items()}
        begin = {"input_ids": ids[:, :4], "encoder_hidden_states": hidden, **mask}
        calls[f"{name} first/decoder_model.onnx"] = begin
        calls[f"{name} merged first/decoder_model_merged.onnx"] = {
            **begin, **empty, "use_cache_branch": torch.tensor([False]),
        }  # fmt: skip
        step = {"input_ids": ids[:, 4:], **mask, **held}
        calls[f"{name} later/decoder_with_past_model.onnx"] = step
        calls[f"{name} merged later/decoder_model_merged.onnx"] = {
            **step, "encoder_hidden_states": hidden, "use_cache_branch": torch.tensor([True]),
        }  # fmt: skip
        for way in ("", " merged"):
            expected[f"{name}{way} first/logits"] = first.logits
            expected[f"{name}{way} first/present.0.encoder.key"] = held["past_key_values.0.encoder.key"]
            expected[f"{name}{way} later/logits"] = later.logits
        expected[f"{name} merged later/present.0.encoder.key"] = held["past_key_values.0.encoder.key"]
    close(alone(tmp_path / "out", calls, tmp_path), expected)


@torch.no_grad()
def test_pictures_of_any_size_where_the_model_allows_it(tmp_path: Path) -> None:
    config = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    model = made("AutoModelForImageClassification", "resnet", **config)
    model.export("onnx", tmp_path / "out")
    calls, expected = {}, {}
    for rows, height, width in ((1, 40, 56), (3, 33, 31)):
        pixels = torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(2))
        calls[f"{height}/model.onnx"] = {"pixel_values": pixels}
        expected[f"{height}/logits"] = model(pixels).logits
    close(alone(tmp_path / "out", calls, tmp_path), expected)


@torch.no_grad()
def test_pictures_in_a_text(tmp_path: Path) -> None:
    """The three graphs that transformers.js puts together give what the model does."""
    model = made(
        "AutoModelForImageTextToText", "llava", text_config={**TEXT, "model_type": "llama", "num_key_value_heads": 2},
        vision_config={**VISION, "model_type": "clip_vision_model"}, image_token_index=4,
        vision_feature_layer=-1,
    )  # fmt: skip
    done = model.export("onnx", tmp_path / "out", task="image-text-to-text-with-past", layout="transformers.js")
    assert sorted(done.files.values()) == [
        "onnx/decoder_model_merged.onnx", "onnx/embed_tokens.onnx", "onnx/vision_encoder.onnx",
    ]  # fmt: skip
    assert {case["graph"] for case in json.loads((tmp_path / "out" / CERTIFICATE).read_text())["cases"]} == {
        "vision_encoder", "embed", "decoder_merged",
    }  # fmt: skip
    ids = torch.tensor([[1, 4, 4, 4, 4, 9, 10], [1, 11, 4, 4, 4, 4, 12]])
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = model(ids, pixel_values=pixels, use_cache=True)
    folder = tmp_path / "out" / "onnx"
    found = alone(folder, {"a/vision_encoder.onnx": {"pixel_values": pixels}}, tmp_path)
    vectors = torch.from_numpy(found["a/image_features"])
    embeds = torch.from_numpy(alone(folder, {"a/embed_tokens.onnx": {"input_ids": ids}}, tmp_path)["a/inputs_embeds"])
    embeds[ids == 4] = vectors.flatten(0, 1)
    given = {
        "inputs_embeds": embeds, "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(7).expand(2, -1),
        **{f"past_key_values.0.{kind}": torch.zeros(2, 2, 0, 4) for kind in ("key", "value")},
    }  # fmt: skip
    close(
        alone(folder, {"a/decoder_model_merged.onnx": given}, tmp_path),
        {"a/logits": expected.logits, "a/present.0.value": expected.past_key_values[0][1]},
    )


@pytest.mark.parametrize("bits", [{"dtype": "fp16"}, {"quantize": "int8"}], ids=str)
def test_fewer_bits_have_tolerances_of_their_own(bits: dict[str, str], tmp_path: Path) -> None:
    """The file is smaller, still near, and what goes in and out is as it was."""
    model = made("AutoModelForMaskedLM", "bert", **{**TEXT, "hidden_size": 64, "initializer_range": 0.05})
    whole = model.export("onnx", tmp_path / "whole")
    small = model.export("onnx", tmp_path / "small", **bits)
    assert whole.greatest < 1e-5 < small.greatest < small.tolerance
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < 0.75 * sizes[0]
    graph = read_layout(tmp_path / "small").graphs["model"]
    assert {port.dtype for port in (*graph.inputs, *graph.outputs)} == {"int64", "float32"}


@torch.no_grad()
def test_pictures_of_one_size_where_the_model_allows_no_other(tmp_path: Path) -> None:
    """Tables of places are laid out for a size: the file has that one, and any number of rows."""
    model = made("AutoModelForImageClassification", "beit", **{**VISION, "use_relative_position_bias": True})
    model.export("onnx", tmp_path / "out")
    assert read_layout(tmp_path / "out").graphs["model"].inputs[0].dims == ("batch_size", 3, 8, 8)
    pixels = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    close(
        alone(tmp_path / "out", {"a/model.onnx": {"pixel_values": pixels}}, tmp_path),
        {"a/logits": model(pixels).logits},
    )


@torch.no_grad()
def test_experts_that_get_no_token(tmp_path: Path) -> None:
    """One token chooses two of eight experts; many choose all."""
    model = made(
        "AutoModelForCausalLM", "mixtral", **TEXT, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2
    )
    model.export("onnx", tmp_path / "out", task="text-generation")
    calls, expected = {}, {}
    for rows, length in ((1, 1), (1, 2), (5, 90)):
        given = masked(rows, length, "none")
        given["position_ids"] = torch.arange(length).expand(rows, -1)
        calls[f"{length}/model.onnx"], expected[f"{length}/logits"] = given, model(**given).logits
    close(alone(tmp_path / "out", calls, tmp_path), expected)


@torch.no_grad()
def test_beyond_a_sliding_window(tmp_path: Path) -> None:
    """Windows that the certificate's lengths do not fill, and steps far behind them."""
    model = made("AutoModelForCausalLM", "mistral", **TEXT, num_key_value_heads=2, sliding_window=40)
    model.export("onnx", tmp_path / "out", task="text-generation-with-past")
    calls, expected = {}, {}
    for past, new in ((0, 120), (100, 1), (39, 2), (45, 60)):
        ids = torch.randint(3, 60, (2, past + new), generator=torch.Generator().manual_seed(past))
        held = {f"past_key_values.0.{kind}": torch.zeros(2, 2, 0, 4) for kind in ("key", "value")}
        if past:
            begun = model(ids[:, :past], use_cache=True).past_key_values[0]
            held = {f"past_key_values.0.{kind}": part for kind, part in zip(("key", "value"), begun, strict=True)}
        calls[f"{past}/model.onnx"] = {
            "input_ids": ids[:, past:], "attention_mask": torch.ones_like(ids),
            "position_ids": torch.arange(past, past + new).expand(2, -1), **held,
        }  # fmt: skip
        expected[f"{past}/logits"] = model(ids).logits[:, past:]
    close(alone(tmp_path / "out", calls, tmp_path), expected)
