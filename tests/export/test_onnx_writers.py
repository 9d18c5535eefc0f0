"""Decoders as ONNX: run by onnxruntime alone, on rows, lengths and steps that the certificate never saw."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from onnx_alone import alone

import omniform
from omniform.architectures.model import Model
from omniform.cli.main import main
from omniform.core.errors import InputError, RepoError, UnknownNameError
from omniform.export import exporting
from omniform.export.onnx import tasks
from omniform.export.onnx.layout import CERTIFICATE, read_layout

TINY = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama's folder."""
    torch.manual_seed(5)
    config = omniform.AutoConfig.for_model("llama", **TINY)
    folder = tmp_path_factory.mktemp("llama") / "model"
    omniform.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return omniform.AutoModelForCausalLM.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "out"
    done = exporting.export_checkpoint(checkpoint, "onnx", out, task="text-generation-with-past", largest_file=0)
    assert done.cases == 36 and done.greatest < 1e-5
    return out


SHAPES = [(1, 1, 0), (5, 1, 7), (2, 200, 0), (4, 37, 5), (3, 2, 120), (1, 64, 1)]
"""Rows, new tokens, tokens so far."""


@torch.no_grad()
@pytest.mark.parametrize("left", [False, True], ids=["whole", "padded"])
def test_any_rows_lengths_and_steps(exported: Path, model: Model, left: bool, tmp_path: Path) -> None:
    calls, expected = {}, {}
    generator = torch.Generator().manual_seed(3)
    for rows, new, past in SHAPES:
        ids = torch.randint(3, 61, (rows, past + new), generator=generator)
        mask = torch.ones_like(ids)
        if left and past + new > 2:
            mask[0, : (past + new) // 2] = 0
        places = (mask.cumsum(1) - 1).clamp(min=0)
        state = None
        if past:
            begun = model(ids[:, :past], attention_mask=mask[:, :past], position_ids=places[:, :past], use_cache=True)
            state = begun.past_key_values
        held = [(torch.zeros(rows, 2, 0, 4),) * 2] * 2 if state is None else [tuple(state[n]) for n in range(2)]
        name = f"{rows}x{new} after {past}"
        calls[f"{name}/model.onnx"] = {
            "input_ids": ids[:, past:], "attention_mask": mask, "position_ids": places[:, past:],
            **{f"past_key_values.{n}.{kind}": held[n][i] for n in range(2) for i, kind in enumerate(("key", "value"))},
        }  # fmt: skip
        out = model(
            ids[:, past:], attention_mask=mask, position_ids=places[:, past:], past_key_values=state, use_cache=True
        )
        expected[f"{name}/logits"] = out.logits
        expected[f"{name}/present.1.value"] = out.past_key_values[1][1]
    found = alone(exported, calls, tmp_path)
    for name, right in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), right, atol=2e-5, rtol=1e-4, msg=name)


def test_names_and_files_are_the_ecosystems(exported: Path) -> None:
    layout = read_layout(exported)
    graph = layout.graphs["model"]
    assert [port.name for port in graph.inputs] == [
        "input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value",
        "past_key_values.1.key", "past_key_values.1.value",
    ]  # fmt: skip
    assert [port.name for port in graph.outputs] == [
        "logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value",
    ]  # fmt: skip
    assert graph.inputs[1].dims == ("batch_size", "past_sequence_length + sequence_length")
    assert graph.inputs[3].dims == ("batch_size", 2, "past_sequence_length", 4)
    assert graph.outputs[0].dims == ("batch_size", "sequence_length", 61)
    names = {path.name for path in exported.iterdir()}
    assert {"model.onnx", "model.onnx_data", "config.json", "generation_config.json", "tokenizer_config.json"} <= names
    assert not [path.name for path in exported.parent.iterdir() if path != exported]


def test_the_certificate_and_its_check(exported: Path, checkpoint: Path) -> None:
    told = json.loads((exported / CERTIFICATE).read_text())
    assert {case["padding"] for case in told["cases"]} == {"none", "left", "right"}
    assert {case["batch_size"] for case in told["cases"]} == {1, 3}
    assert {case["past_sequence_length"] for case in told["cases"]} >= {0, 2, 3}
    assert set(told["sha256"]) >= {"model.onnx", "model.onnx_data", "config.json"}
    done = exporting.check(exported)
    assert done.compared and done.cases == 36


def test_a_changed_file_is_named(exported: Path, tmp_path: Path) -> None:
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(exported, changed)
    data = bytearray((changed / "model.onnx_data").read_bytes())
    data[100] ^= 1
    (changed / "model.onnx_data").write_bytes(data)
    with pytest.raises(RepoError, match=r"model\.onnx_data: the file was changed after its certificate"):
        exporting.check(changed)


def test_a_certificate_of_other_weights_fails(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Another model than the exported one is told from it, though every file is as it was."""
    torch.manual_seed(6)
    other = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.from_pretrained(checkpoint))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="does not agree with torch"):
        exporting.check(exported, tmp_path / "other")


def test_what_is_refused(model: Model, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too old"):
        model.export("onnx", tmp_path / "a", opset=11)
    with pytest.raises(UnknownNameError, match="text-generation"):
        model.export("onnx", tmp_path / "a", task="fill-mask")
    with pytest.raises(UnknownNameError, match="Did you mean 'text-generation"):
        model.export("onnx", tmp_path / "a", task="text-generatoin-with-past")
    with pytest.raises(RepoError, match="there is something already"):
        model.export("onnx", exported)
    with pytest.raises(InputError, match="no such format"):
        model.export("onyx", tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_every_name_of_a_task_works_or_is_refused_with_the_nearest() -> None:
    """The ecosystem's older names and those of pipelines mean what optimum's do."""
    for name, meant, able in (
        ("causal-lm-with-past", "text-generation-with-past", "causal-lm"),
        ("causal-lm", "text-generation", "causal-lm"),
        ("seq2seq-lm-with-past", "text2text-generation-with-past", "seq2seq-lm"),
        ("translation", "text2text-generation", "seq2seq-lm"),
        ("sentence-similarity", "feature-extraction", "base"),
        ("default", "feature-extraction", "base"),
        ("masked-lm", "fill-mask", "masked-lm"),
        ("sequence-classification", "text-classification", "sequence-classification"),
        ("zero-shot-classification", "text-classification", "sequence-classification"),
        ("ner", "token-classification", "token-classification"),
        ("speech2seq-lm-with-past", "automatic-speech-recognition-with-past", "speech-seq2seq"),
        ("vision2seq-lm", "image-to-text", "image-text-to-text"),
    ):
        assert tasks.wanted(name, (able,), "it").whole == meant
    for name, nearest in (("causal-ml", "causal-lm"), ("sentence-similarty", "sentence-similarity")):
        with pytest.raises(UnknownNameError, match=f"Did you mean '{nearest}'"):
            tasks.wanted(name, ("causal-lm", "base"), "it")
    with pytest.raises(UnknownNameError):  # nothing of it writes
        tasks.wanted("default-with-past", ("base",), "it")


@pytest.mark.parametrize("bits", [{}, {"quantize": "int8"}, {"dtype": "fp16"}], ids=str)
def test_a_full_disk_leaves_nothing_half_written(model: Model, bits: dict[str, str], tmp_path: Path) -> None:
    """No file may be longer than that: what was there stays, and nothing is beside it."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine.txt").write_text("mine")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        with pytest.raises(RepoError, match="the folder cannot be written"):
            model.export("onnx", tmp_path / "there", task="text-generation", overwrite=True, **bits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "mine.txt"]


@torch.no_grad()
def test_a_decoder_without_a_cache(model: Model, tmp_path: Path) -> None:
    done = model.export("onnx", tmp_path / "out", task="text-generation")
    assert (done.task, list(done.files.values())) == ("text-generation", ["model.onnx"])
    calls, expected = {}, {}
    for rows, length in ((1, 1), (4, 130)):
        ids = torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(length))
        mask = torch.ones_like(ids)
        mask[0, : length // 2] = 0
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        calls[f"{rows}/model.onnx"], expected[f"{rows}/logits"] = given, model(**given).logits
    found = alone(tmp_path / "out", calls, tmp_path)
    for name, right in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), right, atol=2e-5, rtol=1e-4)


def test_the_command_line(exported: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder is checked; a mistake is one line and code 2, and leaves nothing behind."""
    assert main(["export", "--check", str(exported)]) == 0
    assert "agrees with torch in 36 cases" in capsys.readouterr().out
    for words, said in (
        ([str(checkpoint), str(tmp_path / "x"), "--opset", "11"], "opset"),
        ([str(checkpoint), str(tmp_path / "x"), "--task", "fill-mask"], "fill-mask"),
        ([str(checkpoint), str(exported)], "--overwrite"),
        ([str(checkpoint)], "a folder"),
        (["--check", str(checkpoint)], "no graph"),
        ([str(tmp_path / "nothing"), str(tmp_path / "x")], "nothing"),
    ):
        assert main(["export", *words]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and "Traceback" not in told
    assert not list(tmp_path.iterdir())
