"""Models as other checkpoints: GGUF files, and safetensors of other numbers, sizes of files, and names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import omniform
from omniform.architectures.model import Model
from omniform.cli.main import main
from omniform.core.errors import InputError, RepoError, WeightsError
from omniform.export import checkpoints, exporting
from omniform.hub.consolidated import from_native, to_native

TINY = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "rms_norm_eps": 1e-5, "rope_theta": 50000.0,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 11, 3, 40], [7, 7, 30, 21, 2]])


def made(folder: Path, kind: str = "llama", **more: object) -> Path:
    torch.manual_seed(5)
    config = omniform.AutoConfig.for_model(kind, **{**TINY, **more})
    model = omniform.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # norms too
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("llama") / "small-llama")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return omniform.AutoModelForCausalLM.from_pretrained(checkpoint)


def test_gguf_is_what_quantize_writes(checkpoint: Path, model: Model, tmp_path: Path) -> None:
    """One door: the same words, the same function, so the same bytes."""
    done = exporting.export_checkpoint(checkpoint, "gguf", tmp_path / "out", quantize="q4_k_m")
    assert done.path == tmp_path / "out" / "small-llama-Q4_K_M.gguf" and done.sizes == {done.path.name: 0} | done.sizes
    model.save_gguf(tmp_path / "direct.gguf", type="Q4_K_M")
    assert done.path.read_bytes() == (tmp_path / "direct.gguf").read_bytes()
    assert 0.001 < done.greatest <= done.tolerance and done.cases == len(model.state_dict())
    whole = model.export("gguf", tmp_path / "whole.gguf")
    assert whole.path == tmp_path / "whole.gguf" and whole.greatest <= 1e-6
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "whole.gguf")
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)
    with pytest.raises(RepoError, match="something already"):
        model.export("gguf", tmp_path / "whole.gguf")
    with pytest.raises(InputError, match="Did you mean 'Q4_K_M'"):
        model.export("gguf", tmp_path / "x.gguf", quantize="q4_k_mm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.gguf", "out", "whole.gguf"]


def test_the_hubs_layout(checkpoint: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint / "tokenizer_config.json").write_text("{}")
    words = [str(checkpoint), str(tmp_path / "out"), "--format", "safetensors"]
    assert main(["export", *words, "--dtype", "bf16", "--max-shard-size", "30KB"]) == 0
    told = capsys.readouterr().out
    assert "model-00001-of-" in told and "each of 21 tensors is bit for bit the model's" in told
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors.index.json", "tokenizer_config.json"} <= names
    assert len([name for name in names if name.endswith(".safetensors")]) > 2
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.bfloat16()), name
    assert main(["export", *words, "--max-shard-size", "none", "--overwrite"]) == 0
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"rope_scaling": LLAMA3}),
        ("mistral", {"sliding_window": 3, "head_dim": 32}),
        ("mistral", {"sliding_window": None, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    ],
)
def test_as_meta_and_mistral_name_things(kind: str, more: dict[str, object], tmp_path: Path) -> None:
    folder = made(tmp_path / "model", kind, **more)
    exporting.export_checkpoint(folder, "safetensors", tmp_path / "out", layout="consolidated")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"consolidated.safetensors", "params.json"} <= names and "config.json" not in names
    params = json.loads((tmp_path / "out" / "params.json").read_text())
    assert (params["dim"], params["n_layers"], params["hidden_dim"], params["norm_eps"]) == (64, 2, 96, 1e-5)
    assert params["rope_theta"] == 50000.0 and params.get("sliding_window") == more.get("sliding_window")
    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    own, theirs = model.state_dict(), load_file(tmp_path / "out" / "consolidated.safetensors")
    assert torch.equal(own["model.layers.1.mlp.gate_proj.weight"], theirs["layers.1.feed_forward.w1.weight"])
    assert torch.equal(own["model.layers.1.mlp.up_proj.weight"], theirs["layers.1.feed_forward.w3.weight"])
    assert torch.equal(own["model.layers.0.self_attn.v_proj.weight"], theirs["layers.0.attention.wv.weight"])
    assert ("output.weight" in theirs) is not bool(more.get("tie_word_embeddings"))
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(model)
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, atol=0, rtol=0)


@torch.no_grad()
def test_rows_of_queries_are_turned_as_their_rotation_wants(model: Model) -> None:
    """Their rotary embedding, written down from the paper's formula on pairs of neighbours, gives the Hub's scores."""
    weight = torch.randn(2 * 8, 64, dtype=torch.float64)
    key = torch.randn(2 * 8, 64, dtype=torch.float64)
    x = torch.randn(6, 64, dtype=torch.float64)
    angles = torch.arange(6).double()[:, None] * 10000.0 ** (-torch.arange(0, 8, 2).double() / 8)

    def neighbours(v: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(v.reshape(6, 2, 4, 2).contiguous())
        turned = pairs * torch.polar(torch.ones_like(angles), angles).to(pairs.dtype)[:, None]
        return torch.view_as_real(turned).flatten(-2)

    def halves(v: torch.Tensor) -> torch.Tensor:
        one, other = v.reshape(6, 2, 8).chunk(2, -1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)

    params = {"n_heads": 2, "n_kv_heads": 2}
    ours = {"model.layers.0.self_attn.q_proj.weight": weight, "model.layers.0.self_attn.k_proj.weight": key}
    theirs = to_native(ours, params)
    q, k = (neighbours(x @ theirs[f"layers.0.attention.w{part}.weight"].T) for part in "qk")
    right = halves(x @ weight.T), halves(x @ key.T)
    torch.testing.assert_close(
        torch.einsum("thd,shd->hts", q, k), torch.einsum("thd,shd->hts", *right), atol=1e-9, rtol=1e-9
    )
    back = from_native(theirs, params, "test")
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())


def test_by_the_names_of_modules(tmp_path: Path) -> None:
    """A BERT's names on the Hub are others than those of its modules."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    model = omniform.AutoModelForMaskedLM.from_config(omniform.AutoConfig.for_model("bert", vocab_size=40, **sizes))
    model.export("safetensors", tmp_path / "out", layout="modules")
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert held.keys() <= model.state_dict().keys()
    again = omniform.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_what_these_layouts_cannot_tell(checkpoint: Path, model: Model, tmp_path: Path) -> None:
    for kind, more, said in (
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("qwen2", {}, "layout"),
    ):
        folder = made(tmp_path / f"{kind}-{said}", kind, **more)
        with pytest.raises(InputError, match=said):
            exporting.export_checkpoint(folder, "safetensors", tmp_path / "out", layout="consolidated")
    with pytest.raises(InputError, match="max_shard_size"):
        model.export("safetensors", tmp_path / "out", layout="consolidated", max_shard_size="1KB")
    with pytest.raises(InputError, match="Did you mean 'consolidated'"):
        model.export("safetensors", tmp_path / "out", layout="consolidatd")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_theirs_that_is_damaged(model: Model, tmp_path: Path) -> None:
    model.export("safetensors", tmp_path / "out", layout="consolidated")
    held = load_file(tmp_path / "out" / "consolidated.safetensors")
    save_file({**held, "layers.0.attention.wx.weight": torch.zeros(1)}, tmp_path / "out" / "consolidated.safetensors")
    with pytest.raises(WeightsError, match="wx"):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    params = json.loads((tmp_path / "out" / "params.json").read_text())
    (tmp_path / "out" / "params.json").write_text(json.dumps({**params, "moe": {"num_experts": 8}}))
    with pytest.raises(WeightsError, match="moe"):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    (tmp_path / "out" / "params.json").write_text(json.dumps({"dim": 64}))
    with pytest.raises(WeightsError, match="n_layers"):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_nothing_stays_of_what_went_wrong(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full in the middle, and a file that does not hold what was written into it."""

    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_tensors", full)
        with pytest.raises(RepoError, match="No space left"):
            model.export("safetensors", tmp_path / "out", layout="modules")
    real = checkpoints.read_back

    def flipped(folder: Path) -> dict[str, torch.Tensor]:
        found = real(folder)
        next(iter(found.values())).view(torch.int32).view(-1)[0] ^= 1
        return found

    monkeypatch.setattr(checkpoints, "read_back", flipped)
    with pytest.raises(WeightsError, match="do not hold what the model does"):
        model.export("safetensors", tmp_path / "out")
    assert not list(tmp_path.iterdir())
