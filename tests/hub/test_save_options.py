"""Options of saving and loading: given weights, ties by hand, variants, code that folders name, killed saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import omniform
from omniform import AutoConfig, AutoModelForCausalLM
from omniform.core.errors import InputError, RepoError, TrustError

TINY = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


def test_weights_tied_by_hand_are_saved_so_that_they_load(tmp_path):
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY)).eval()
    model.lm_head.weight = model.model.embed_tokens.weight
    model.model.layers[1].mlp.gate_proj.weight = model.model.layers[0].mlp.gate_proj.weight
    model.save_pretrained(tmp_path / "by hand")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "by hand")
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    # And the other way: tied by the config, and apart since.
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY, tie_word_embeddings=True)).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(tmp_path / "apart")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "apart")(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_given_weights(kind, tmp_path):
    config = AutoConfig.for_model(kind, vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = omniform.AutoModel.from_config(config).eval()
    others = omniform.AutoModel.from_config(config).eval()
    ids = torch.tensor([[1, 5, 9]])
    right = others(ids)[0]
    model.save_pretrained(tmp_path / "given", state_dict=others.state_dict())
    torch.testing.assert_close(omniform.AutoModel.from_pretrained(tmp_path / "given")(ids)[0], right)
    hub = load_file(tmp_path / "given" / "model.safetensors")
    model.save_pretrained(tmp_path / "hub", state_dict=hub)
    assert load_file(tmp_path / "hub" / "model.safetensors").keys() == hub.keys()
    for spelled in (hub, others.state_dict()):
        for name, options in ((tmp_path / "given", {}), (None, {"config": config})):
            made = omniform.AutoModel.from_pretrained(name, state_dict=spelled, **options)
            torch.testing.assert_close(made(ids)[0], right)  # a transposed matrix sums in another order
    torch.save(others.state_dict(), tmp_path / "given" / "pytorch_model.bin")
    (tmp_path / "given" / "model.safetensors").unlink()
    torch.testing.assert_close(omniform.AutoModel.from_pretrained(tmp_path / "given")(ids)[0], right)
    with pytest.raises(InputError, match="nonsense"):
        model.save_pretrained(tmp_path / "x", state_dict={**hub, "nonsense": torch.zeros(1)})
    for wrong in ([1], {"a": 1}, "x"):
        with pytest.raises(InputError, match="state_dict"):
            omniform.AutoModel.from_pretrained(None, state_dict=wrong, config=config)


def test_options_of_saving(tmp_path):
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY)).eval()
    model.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()
    names = []

    def write(tensors, path):
        names.append(path)
        save_file(tensors, path)

    model.save_pretrained(tmp_path / "own", save_function=write)
    assert len(names) == 1 and AutoModelForCausalLM.from_pretrained(tmp_path / "own")
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "a", variant="fp16", max_shard_size=3000)
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert "model.safetensors" in files and "model.safetensors.index.fp16.json" in files
    assert any(name.startswith("model.fp16-00001-of-") for name in files)
    AutoModelForCausalLM.from_pretrained(tmp_path / "a", variant="fp16")
    model.save_pretrained(tmp_path / "a", variant="fp16")
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"model.safetensors", "model.fp16.safetensors"} <= files and not any("-of-" in name for name in files)
    wrong = {
        "push_to_hub": torch.zeros(2), "variant": "../x", "safe_serialization": False, "max_shard_size": "many",
        "state_dict": 3,
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(InputError, match=name if name != "max_shard_size" else "no such size"):
            model.save_pretrained(tmp_path / "x", **{name: value})
    for value in (None, 3, "", torch.zeros(1), {}, b"x"):
        with pytest.raises(InputError):
            model.save_pretrained(value)


def test_what_a_killed_save_left_is_cleaned_by_the_next(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from omniform.hub.folders import replace_files\n"
        "def write(folder):\n    (folder / 'half').write_text('x'); os._exit(9)\n"
        "replace_files(Path(sys.argv[1]), write)"
    )
    target = tmp_path / "model"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert len(list(tmp_path.iterdir())) == 1  # the second removed what the first left
    alive = tmp_path / f".model-{os.getpid()}-abcdefgh"  # somebody who saves at this moment
    alive.mkdir()
    (tmp_path / ".model-mine").mkdir()
    AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY)).save_pretrained(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, ".model-mine", "model"])


def test_code_that_a_folder_names(tmp_path):
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY))
    model.save_pretrained(tmp_path)
    for trusted in (True, False, None):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=trusted)
        AutoConfig.from_pretrained(tmp_path, trust_remote_code=trusted)
    raw = json.loads((tmp_path / "config.json").read_text())
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps({**raw, **code}))
    AutoModelForCausalLM.from_pretrained(tmp_path)
    AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)  # code of the model's only
    with pytest.raises(RepoError, match=r"modeling_mine\.py"):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    (tmp_path / "config.json").write_text(json.dumps({**raw, **code, "model_type": "mine"}))
    for door in (AutoModelForCausalLM, AutoConfig):
        with pytest.raises(TrustError, match=r"'mine'.*modeling_mine\.Mine"):
            door.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 256), ({"type": "linear", "factor": 2}, 128),
        ({"rope_type": "yarn", "factor": 4.0}, 256), ({"rope_type": "dynamic", "factor": 2.0}, None),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}, 128),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}, 64), ({"rope_type": "default"}, 64),
    ],
)  # fmt: skip
def test_scaling_stretches_the_window(scaling, longest):
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY, rope_scaling=scaling)).eval()
    assert model.max_positions == longest
    if longest is not None:
        with pytest.raises(InputError, match=rf"at most {longest} tokens.*max_position_embeddings="):
            model.generate(torch.ones(1, longest + 1, dtype=torch.long), max_new_tokens=1)
