"""``omniform eject``: files that compute what we compute, where there is no omniform."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import omniform
from export.ejected import covering, heads, job_of, main_head, run_alone, tables
from omniform import eject
from omniform.cli.main import main
from omniform.core.errors import InputError, OmniformError
from omniform.core.outputs import BaseModelOutput, ModelOutput
from omniform.export.eject import entries, expressions
from omniform.export.eject.loading import tied_patterns
from omniform.export.eject.values import Record, join
from omniform.export.eject.whole import Asked, verify
from omniform.models import registry

TABLES = tables()
REFUSED = {
    "timm_wrapper": "neither ours nor torch's own",  # what timm computes is no file's
    "speech-encoder-decoder": "these keys are not known",  # a pair's encoder is called by its own names
    "encodec": "names that are not there.*stages",  # a table of bitrates that is looked into while it runs
    # What a model answers about is among these, and a file would not take it.
    **dict.fromkeys(("gemma3", "paligemma"), "without these inputs.*token_type_ids"),
    **dict.fromkeys(("llava_onevision", "qwen2_vl", "qwen3_vl_moe"), "without these inputs.*pixel_values_videos"),
    **dict.fromkeys(("qwen2_audio", "voxtral"), "without these inputs.*input_features"),
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"), "without these inputs.*input_features"),
    **dict.fromkeys(("blip", "blip-2", "clipseg", "grounding-dino"), "without these inputs.*input_ids"),
    "instructblip": "without these inputs.*qformer_input_ids",
    "idefics3": "a call does not fit.*width",  # tiles are told by their columns and rows
    "llava_next": "an object of this class cannot be made",  # how tiles are laid out is an object of its own
    "phi4_multimodal": "this module is not taken along",  # its tiles are those of another module
    "mistral3": "this expression cannot be specialised",  # pictures of any size each have a mask of their own
    **dict.fromkeys(("florence2", "siglip2"), "these keys are not known"),
    # Which inputs there are decides what is computed.
    "vision-encoder-decoder": "a class method cannot be specialised",  # its inputs are sorted by what its parts take
}
"""Families that are not written down, each with what is said of it."""

PARTS = {
    *("owlv2_text_model", "owlvit_vision_model", "qwen2_audio_encoder", "qwen2_vl_vision", "voxtral_encoder"),
    *("qwen2_5_omni", "qwen2_5_omni_audio_encoder", "qwen2_5_omni_bigvgan", "qwen2_5_omni_dit", "qwen2_5_omni_talker"),
    *("qwen2_5_omni_text", "qwen2_5_omni_token2wav", "qwen2_5_omni_vision_encoder", "qwen3_omni_moe"),
    *("qwen3_omni_moe_audio_encoder", "qwen3_omni_moe_code2wav", "qwen3_omni_moe_talker"),
    *("qwen3_omni_moe_talker_code_predictor", "qwen3_omni_moe_talker_text", "qwen3_omni_moe_text"),
    "qwen3_omni_moe_vision_encoder",
}
"""Parts of families, and models that speak as well, whose parity is tried in another way than by a table."""

SIBLINGS = {"rt_detr_v2", "oneformer", "sam2", "hubert", "data2vec-audio", "unispeech-sat"}
"""Families that take seconds to write and stand on what a sibling shows: `make exhaustive` writes them."""

WRITTEN = sorted(covering() - set(REFUSED) - SIBLINGS)
"""Families that hold every class of module between them."""

TRIED = [
    *("llama", "bert", "t5", "whisper", "llava", "vit"),
    *("mamba", "mixtral", "deepseek_v3", "gpt_oss", "clip", "detr", "sam", "swin", "wav2vec2", "vits", "deberta-v2"),
]
"""One of each kind; `make exhaustive` writes all of those, and every head and variant of every family."""
GROUPS = [TRIED[start::4] for start in range(4)]
OTHERS = [name for name in WRITTEN if name not in TRIED]
ALL_HEADS = ("llama", "bert", "t5")


def test_every_family_has_a_case() -> None:
    """So that none is forgotten."""
    assert set(TABLES) <= set(registry.known_families())
    missing = set(registry.known_families()) - set(TABLES)
    assert missing == PARTS


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_main_heads(group: int, tmp_path: Path) -> None:
    """Plain, padded on either side, read on from a cache, written token by token: as ours."""
    jobs = [job_of(main_head(TABLES[name]), tmp_path / name) for name in GROUPS[group]]
    assert run_alone(jobs, tmp_path) == ""


@pytest.mark.parametrize("start", range(8))
def test_other_main_heads(start: int, tmp_path: Path) -> None:
    """The same for the other classes of module."""
    jobs = [job_of(main_head(TABLES[name]), tmp_path / name) for name in OTHERS[start::8]]
    assert run_alone(jobs, tmp_path) == ""


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_not_written_down_is_refused(family: str, tmp_path: Path) -> None:
    """By name, before there is a file that computes something else."""
    with pytest.raises(OmniformError, match=f"cannot be written down.*{REFUSED[family]}"):
        job_of(main_head(TABLES[family]), tmp_path / family)
    assert not list(tmp_path.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL_HEADS)
def test_all_heads(family: str, tmp_path: Path) -> None:
    """The other architectures of a decoder, an encoder and of both."""
    cases = [case for case in heads(TABLES[family]) if case.architecture is not main_head(TABLES[family]).architecture]
    jobs = [job_of(case, tmp_path / case.architecture.reference) for case in cases]
    assert run_alone(jobs, tmp_path) == ""


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_files_are_in_good_form(family: str, tmp_path: Path) -> None:
    """By the rules of this repository, and the same byte for byte each time; `make exhaustive` looks at all."""
    file = eject(family, tmp_path / "one.py")
    again = eject(family, tmp_path / "two.py")
    assert file.read_text().replace("one.py", "two.py") == again.read_text()
    settings = str(Path(__file__).parents[2] / "pyproject.toml")
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", settings, str(file)], capture_output=True
        )
        assert done.returncode == 0, done.stdout.decode()
    assert "omniform." not in file.read_text()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says, and that it writes over nothing unasked."""
    file = tmp_path / "my_llama.py"
    asked = ["eject", "llama", "--to", str(file), "--architecture", "LlamaForSequenceClassification"]
    assert main(asked) == 0
    assert "class LlamaForSequenceClassification(nn.Module)" in file.read_text()
    assert str(file) in capsys.readouterr().out
    assert main(asked) == 2
    assert "the file is there" in capsys.readouterr().err
    assert main([*asked, "--force"]) == 0


def test_refusals(tmp_path: Path) -> None:
    """A mistake is named, and nothing is written."""
    with pytest.raises(InputError, match="Did you mean 'LlamaForCausalLM'"):
        eject("llama", tmp_path / "x.py", architecture="LlamaForCausalLm")
    with pytest.raises(OmniformError):
        eject(tmp_path / "nothing", tmp_path / "x.py")
    with pytest.raises(InputError, match=r"ends in \.py"):
        eject("llama", tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    """What a folder is called stays a text in the file."""
    folder = tmp_path / 'a"""\nimport sys; sys.exit("ran")\n"""'
    config = omniform.LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=50
    )
    omniform.LlamaForCausalLM(config).save_pretrained(folder)
    text = eject(folder, to=tmp_path / "odd.py").read_text(encoding="utf-8")
    assert r"\nimport sys" in text and "\nimport sys" not in text
    compile(text, "odd.py", "exec")


def test_documented_example() -> None:
    """The example of docs/eject.md runs as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "eject.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 5, 64]) torch.Size([1, 9])" in done.stdout


def test_other_checkpoints(tmp_path: Path) -> None:
    """A family's file loads checkpoints of other sizes, and refuses those that compute something else."""
    file = eject("llama", tmp_path / "any_llama.py")
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 500.0}
    ids = torch.arange(12).view(2, 6)
    jobs = []
    for name, more in {"plain": {}, "biased": {"attention_bias": True}, "stretched": STRETCHED}.items():
        config = omniform.AutoConfig.for_model("llama", **sizes, **more)
        model = omniform.AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(tmp_path / name)
        answers = {"logits": model(ids).logits.detach()}
        about = {"name": name, "file": str(file), "folder": str(tmp_path / name), "single": "logits"}
        jobs.append({**about, "questions": [({"input_ids": ids}, answers, None)], "cached": None, "written": []})
    told = run_alone(jobs, tmp_path).splitlines()
    assert [line.split(":")[0] for line in told] == ["biased", "stretched"]
    assert all("NotImplementedError: this file computes" in line for line in told), told


STRETCHED = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}


def test_ties_by_patterns() -> None:
    """Numbers that tell whom a tensor is tied to stay in its pattern; those of layers go."""
    names = {f"heads.{i}.layers.{j}.weight": f"heads.0.layers.{j}.weight" for i in (1, 2) for j in (0, 1)}
    found = tied_patterns(names)
    assert found == {
        rf'r"heads\.\d+\.layers\.{j}\.weight"': f"heads.0.layers.{j}.weight" for j in (0, 1)
    }  # fmt: skip
    assert tied_patterns({"lm_head.weight": "embed.weight"}) == {r'r"lm_head\.weight"': "embed.weight"}


def test_layers_that_may_be_left_out_in_training(tmp_path: Path) -> None:
    """A list of those that are left is as good as the list of all: each is written with what it computes."""
    sizes = {"vocab_size": 50, "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    sizes |= {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    luck = {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.4}
    model = omniform.BartForConditionalGeneration(omniform.BartConfig(**sizes, **luck)).eval()
    model.save_pretrained(tmp_path / "bart")
    file = eject(tmp_path / "bart", tmp_path / "dropping.py")
    ids = torch.arange(12).view(2, 6)
    inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :4]}
    answers = {"logits": model(**inputs).logits.detach()}
    job = {"name": "bart", "file": str(file), "folder": str(tmp_path / "bart"), "single": "logits"}
    assert run_alone([{**job, "questions": [(inputs, answers, None)], "cached": None, "written": []}], tmp_path) == ""


def test_what_is_not_understood_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of what is not known, objects of two classes in one place, and a module without its forward."""
    with monkeypatch.context() as patch:
        patch.setattr(expressions, "gone_over", lambda value: None)
        with pytest.raises(OmniformError, match=r"what is called here is not known.*layer"):
            eject("llama", tmp_path / "llama.py")
    asked = Asked(registry.family("bert"), registry.family("bert").base, {}, frozenset(), "")
    with pytest.raises(OmniformError, match=r"without their forward.*Layer"):
        verify("class Layer(nn.Module):\n    def __init__(self): super().__init__()\n", asked, {})
    with monkeypatch.context() as patch:
        patch.setattr(entries, "DEMANDED", ())
        with pytest.raises(OmniformError, match="what it gives is not known here"):
            eject("vits", tmp_path / "vits.py")
    with pytest.raises(OmniformError, match="BaseModelOutput and ModelOutput"):
        join(Record(BaseModelOutput), Record(ModelOutput))
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_there_are_refused() -> None:
    """A text that runs as far as making its model may still read what nobody sets."""
    asked = Asked(registry.family("bert"), registry.family("bert").base, {}, frozenset(), "")
    text = (
        "import torch\nclass Config: pass\nclass BertModel(torch.nn.Module):\n"
        "    def __init__(self, config): super().__init__()\n    def forward(self, x): return hidden + x\n"
    )
    with pytest.raises(OmniformError, match="hidden"):
        verify(text, asked, {})
    verify(text.replace("hidden", "x"), asked, {})
