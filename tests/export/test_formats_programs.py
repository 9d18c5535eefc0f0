"""Models as programs of ``torch.export``: run by torch alone, on rows, lengths and steps that no certificate saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from programs_alone import alone

import omniform
from omniform.architectures.model import Model
from omniform.cli.main import main
from omniform.core.errors import InputError, RepoError
from omniform.export import exporting
from omniform.export.onnx.layout import CERTIFICATE

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
    out = tmp_path_factory.mktemp("programs") / "out"
    done = exporting.export_checkpoint(checkpoint, "torch", out, task="text-generation-with-past")
    assert done.format == "torch" and done.cases == 36 and done.greatest < 1e-5
    return out


@torch.no_grad()
@pytest.mark.parametrize("left", [False, True], ids=["whole", "padded"])
def test_any_rows_lengths_and_steps(exported: Path, model: Model, left: bool, tmp_path: Path) -> None:
    calls, expected = {}, {}
    generator = torch.Generator().manual_seed(3)
    for rows, new, past in ((1, 1, 0), (5, 1, 7), (2, 100, 0), (4, 37, 5), (1, 64, 1)):
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
        call = f"{rows}x{new} after {past}"
        given = {"input_ids": ids[:, past:], "attention_mask": mask, "position_ids": places[:, past:]}
        kept = {
            f"past_key_values_{n}_{kind}": held[n][i].clone()
            for n in range(2)
            for i, kind in enumerate(("key", "value"))
        }
        calls[call] = ("model.pt2", {**given, **kept})
        out = model(**given, past_key_values=state, use_cache=True)
        expected[call] = {"logits": out.logits, "present_1_value": out.past_key_values[1][1]}
    found = alone(exported, calls, tmp_path)
    for call, outputs in expected.items():
        for name, right in outputs.items():
            torch.testing.assert_close(found[call][name], right, atol=2e-5, rtol=1e-4, msg=f"{call}, {name}")


def test_what_stands_in_the_folder(exported: Path) -> None:
    told = json.loads((exported / CERTIFICATE).read_text())
    assert told["format"] == "torch" and "opset" not in told and "onnxruntime" not in told["versions"]
    assert {case["padding"] for case in told["cases"]} == {"none", "left", "right"}
    ports = {port["name"]: port["dims"] for graph in told["graphs"] for port in graph["inputs"] + graph["outputs"]}
    assert ports["attention_mask"] == ["batch_size", "past_sequence_length + sequence_length"]
    assert ports["past_key_values.0.key"] == ["batch_size", 2, "past_sequence_length", 4]
    assert ports["logits"] == ["batch_size", "sequence_length", 61]
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.pt2", "config.json", "generation_config.json", "tokenizer_config.json", CERTIFICATE}
    assert not [path.name for path in exported.parent.iterdir() if path != exported]
    assert b"/src/omniform/" not in (exported / "model.pt2").read_bytes(), "no paths of the machine that made it"


def test_the_check(exported: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--check", str(exported)]) == 0
    assert "torch.export's program agrees with torch in 36 cases" in capsys.readouterr().out
    torch.manual_seed(6)
    other = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.from_pretrained(checkpoint))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="program does not agree with torch"):
        exporting.check(exported, tmp_path / "other")
    changed = tmp_path / "changed"
    shutil.copytree(exported, changed)
    data = bytearray((changed / "model.pt2").read_bytes())
    data[1000] ^= 1
    (changed / "model.pt2").write_bytes(data)
    with pytest.raises(RepoError, match=r"model\.pt2: the file was changed after its certificate"):
        exporting.check(changed)


PROMPTS = [[5, 9, 11, 3], [7, 30, 21]]


@torch.no_grad()
def test_run_as_a_model(exported: Path, model: Model) -> None:
    """The same doors as for graphs of ONNX, without onnxruntime: forward, cache, and what the engine writes."""
    same = omniform.ExportedModel.from_pretrained(exported)
    assert isinstance(omniform.AutoModelForCausalLM.from_pretrained(exported), omniform.ExportedModel)
    ids = torch.randint(3, 61, (3, 9))
    out, right = same(ids), model(ids)
    torch.testing.assert_close(out.logits, right.logits, atol=2e-5, rtol=1e-4)
    later = same(ids[:, :1], past_key_values=out.past_key_values).logits
    torch.testing.assert_close(later, model(torch.cat([ids, ids[:, :1]], 1)).logits[:, -1:], atol=2e-5, rtol=1e-4)
    for how in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 4}):
        written = same.generate(PROMPTS, max_new_tokens=8, **how)
        assert torch.equal(
            torch.as_tensor(written), torch.as_tensor(model.generate(PROMPTS, max_new_tokens=8, **how))
        ), how
    with pytest.raises(InputError, match="providers and its like: this means nothing for programs of torch"):
        omniform.ExportedModel.from_pretrained(exported, intra_op_num_threads=1)


@torch.no_grad()
def test_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    """Each part is a program; keys that are read of the encoder are handed on from the first step."""
    torch.manual_seed(5)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    ids = {"vocab_size": 61, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    model = omniform.AutoModelForSeq2SeqLM.from_config(omniform.AutoConfig.for_model("t5", **sizes, **ids)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    done = model.export("torch", tmp_path / "out", task="text2text-generation-with-past")
    assert done.files == {
        "encoder": "encoder_model.pt2", "decoder": "decoder_model.pt2",
        "decoder_with_past": "decoder_with_past_model.pt2",
    }  # fmt: skip
    read, written = torch.randint(2, 61, (4, 9)), torch.randint(2, 61, (4, 5))
    mask = torch.ones_like(read)
    mask[1, 5:] = 0
    first = alone(
        tmp_path / "out", {"read": ("encoder_model.pt2", {"input_ids": read, "attention_mask": mask})}, tmp_path
    )
    begun = {
        "input_ids": written[:, :4], "encoder_attention_mask": mask,
        "encoder_hidden_states": first["read"]["last_hidden_state"],
    }  # fmt: skip
    step = alone(tmp_path / "out", {"write": ("decoder_model.pt2", begun)}, tmp_path)["write"]
    kept = {name.replace("present", "past_key_values"): held for name, held in step.items() if name != "logits"}
    later = {"input_ids": written[:, 4:], "encoder_attention_mask": mask, **kept}
    last = alone(tmp_path / "out", {"write": ("decoder_with_past_model.pt2", later)}, tmp_path)["write"]
    right = model(input_ids=read, attention_mask=mask, decoder_input_ids=written).logits
    torch.testing.assert_close(torch.cat([step["logits"], last["logits"]], 1), right, atol=1e-4, rtol=1e-4)
    same = omniform.ExportedModel.from_pretrained(tmp_path / "out")
    out = same(input_ids=read, attention_mask=mask, decoder_input_ids=written)
    torch.testing.assert_close(out.logits, right, atol=1e-4, rtol=1e-4)
    asked = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(same.generate(read, **asked), model.generate(read, **asked))


@torch.no_grad()
def test_half_precision_and_a_head(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = omniform.AutoConfig.for_model(
        "bert", **{name: TINY[name] for name in TINY if name != "num_key_value_heads"}
    )
    model = omniform.AutoModelForSequenceClassification.from_config(config).eval()
    done = model.export("torch", tmp_path / "out", dtype="bf16")
    assert 1e-5 < done.greatest <= done.tolerance == 0.16
    ids = torch.randint(3, 61, (7, 31))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    found = alone(tmp_path / "out", {"one": ("model.pt2", given)}, tmp_path)["one"]["logits"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model(**given).logits, atol=0.05, rtol=0.05)
