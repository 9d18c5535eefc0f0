"""What a checkpoint brings to do with a model: ``custom_generate`` and ``custom_pipelines``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from code_folders import canary, home, put  # noqa: F401

import omniform
from omniform import AutoModelForCausalLM, pipeline
from omniform.core.errors import CodeError, DependencyError, InputError, OmniformError, RepoError, TrustError
from omniform.hub.code import trust
from reference import saved_reference, transformers

pytestmark = pytest.mark.usefixtures("home")

LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40,
}  # fmt: skip
IDS = torch.tensor([[3, 4, 5]])

LOOP = """
import torch
from .parts import pick

def generate(model, input_ids=None, inputs=None, generation_config=None, max_new_tokens=2, favourite=None, **kwargs):
    ids = inputs if input_ids is None else input_ids
    for _ in range(max_new_tokens):
        ids = torch.cat([ids, pick(model(ids).logits) if favourite is None else ids.new_full((1, 1), favourite)], 1)
    return ids
"""
FOLDER = {
    "custom_generate/generate.py": LOOP,
    "custom_generate/parts.py": "def pick(logits):\n    return logits[:, -1:].argmax(-1)\n",
    "custom_generate/requirements.txt": "torch>=1\n",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("llama")
    theirs = saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA), folder)
    return AutoModelForCausalLM.from_pretrained(folder), theirs, folder


def test_a_repository_that_generates(pair, tmp_path: Path) -> None:
    ours, theirs, _ = pair
    put(tmp_path, FOLDER)
    asked = {"custom_generate": str(tmp_path), "trust_remote_code": True}
    for inputs in ({"input_ids": IDS}, {"inputs": IDS}):
        for more in ({}, {"max_new_tokens": 4}, {"favourite": 7, "max_new_tokens": 3}):
            expected = theirs.generate(**inputs, **asked, **more)
            assert ours.generate(**inputs, **asked, **more).tolist() == expected.tolist()
    assert ours.generate(IDS, **asked).tolist() == theirs.generate(IDS, **asked).tolist()
    assert ours.generate(IDS, custom_generate=tmp_path, trust_remote_code=True).shape == (1, 5)
    (accepted,) = trust.accepted(str(tmp_path.resolve()))
    assert set(accepted.files) == {"custom_generate/generate.py", "custom_generate/parts.py"}


def test_what_cannot_generate(pair, tmp_path: Path) -> None:
    ours, _, _ = pair
    run = tmp_path / "canary"
    folder = put(
        tmp_path / "a", {"custom_generate/generate.py": canary(run) + "def generate(model, inputs): return 5\n"}
    )
    for trusted in ({}, {"trust_remote_code": False}, {"trust_remote_code": None}):
        with pytest.raises(TrustError, match=r"custom_generate/generate\.py"):
            ours.generate(IDS, custom_generate=str(folder), **trusted)
    for odd in ("True", 1):
        with pytest.raises(InputError, match="trust_remote_code"):
            ours.generate(IDS, custom_generate=str(folder), trust_remote_code=odd)
    # What the model's own settings say does not count.
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(**LLAMA))
    model.generation_config = omniform.GenerationConfig.from_dict(
        {"custom_generate": str(folder), "trust_remote_code": True, "max_new_tokens": 2}
    )
    with contextlib.suppress(OmniformError):
        model.generate(IDS)
    assert not run.exists()
    with pytest.raises(RepoError, match=r"custom_generate/generate\.py"):
        ours.generate(IDS, custom_generate=str(put(tmp_path / "b", {"x": ""})), trust_remote_code=True)
    put(tmp_path / "c", {"custom_generate/generate.py": "generate = 5\n"})
    with pytest.raises(CodeError, match="no function"):
        ours.generate(IDS, custom_generate=str(tmp_path / "c"), trust_remote_code=True)
    put(tmp_path / "d", {**FOLDER, "custom_generate/requirements.txt": "no-such-thing>=3\ntorch<1\n"})
    with pytest.raises(DependencyError, match=r"no-such-thing>=3 \(not installed\), torch<1 \(installed"):
        ours.generate(IDS, custom_generate=str(tmp_path / "d"), trust_remote_code=True)
    put(
        tmp_path / "e", {"custom_generate/generate.py": "def generate(model, **kwargs):\n    raise ValueError('boo')\n"}
    )
    with pytest.raises(OmniformError, match="ValueError: boo"):
        ours.generate(IDS, custom_generate=str(tmp_path / "e"), trust_remote_code=True)


def test_a_checkpoint_with_its_own_generate(pair, tmp_path: Path) -> None:
    ours, _, folder = pair
    put(tmp_path, {**FOLDER, **{name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}})
    trusted = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert trusted.generate(input_ids=IDS, favourite=9).tolist() == [[3, 4, 5, 9, 9]]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    asked = {"max_new_tokens": 2, "eos_token_id": None}
    assert plain.generate(IDS, **asked).tolist() == ours.generate(IDS, **asked).tolist()


PIPELINE = """
from omniform import Pipeline

class Counting(Pipeline):
    _load_tokenizer = False

    def _sanitize_parameters(self, times=1, **kwargs):
        return {}, {"times": times}, {}

    def preprocess(self, numbers):
        import torch
        return {"input_ids": torch.tensor([[int(one) for one in numbers.split()]])}

    def _forward(self, inputs, times=1):
        return {"shape": tuple(self.model(**inputs).logits.shape), "times": times}

    def postprocess(self, outputs):
        return outputs
"""


def counting(folder: Path, target: Path, code: str = PIPELINE, **info: object) -> Path:
    raw = json.loads((folder / "config.json").read_text())
    said = {"count": {"impl": "counting.Counting", "pt": ["AutoModelForCausalLM"], "type": "text", **info}}
    files = {"model.safetensors": (folder / "model.safetensors").read_bytes(), "counting.py": code}
    return put(target, {**files, "config.json": json.dumps({**raw, "custom_pipelines": said})})


@pytest.mark.parametrize("task", ["count", None])
def test_a_pipeline_of_the_folder(pair, tmp_path: Path, task: str | None) -> None:
    folder = counting(pair[2], tmp_path)
    pipe = pipeline(task, model=str(folder), trust_remote_code=True)
    assert pipe("3 4 5", times=2) == {"shape": (1, 3, 40), "times": 2} and pipe.task == "count"
    for trusted in (None, False):
        with pytest.raises(TrustError, match="'count'"):
            pipeline(task, model=str(folder), trust_remote_code=trusted)


def test_pipelines_that_are_none(pair, tmp_path: Path) -> None:
    for number, (code, info, words) in enumerate(
        [
            ("class Counting: pass\n", {}, "no pipeline"),
            ("Counting = 5\n", {}, "no pipeline"),
            (PIPELINE, {"impl": "../counting.Counting"}, "leads out"),
            (PIPELINE, {"impl": None}, "names no class"),
            (PIPELINE, {"pt": ["NoSuchAuto"]}, "no such Auto class"),
        ]
    ):
        folder = counting(pair[2], tmp_path / str(number), code, **info)
        with pytest.raises(CodeError, match=words):
            pipeline("count", model=str(folder), trust_remote_code=True)


def test_a_pipeline_for_transformers(pair, tmp_path: Path) -> None:
    folder = counting(pair[2], tmp_path, PIPELINE.replace("from omniform", "from transformers"))
    pipe = pipeline("count", model=str(folder), trust_remote_code=True)
    assert isinstance(pipe, transformers.Pipeline) and isinstance(pipe.model, transformers.LlamaForCausalLM)
    assert pipe("3 4 5", times=2) == {"shape": (1, 3, 40), "times": 2}
