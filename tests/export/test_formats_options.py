"""One table of options for every format, by both doors; what means nothing is refused by its name."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

import omniform
from omniform.architectures.model import Model
from omniform.cli.main import main
from omniform.core.errors import InputError, MissingToolError, UnknownArgumentError
from omniform.export.formats import FORMATS, Options, format_named, options_of
from omniform.export.packages.programs import _of_one

TINY = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def model() -> Model:
    config = omniform.AutoConfig.for_model("llama", **TINY)
    return omniform.AutoModelForCausalLM.from_config(config).eval()


SAID = {
    "task": "text-generation", "opset": 20, "dtype": "fp32", "quantize": "int8", "layout": "hub", "largest_file": 5,
    "max_shard_size": "1GB", "overwrite": True,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_option_is_read_or_refused_by_name(name: str, model: Model, tmp_path: Path) -> None:
    form = format_named(name)
    assert {one.name for one in fields(Options)} == set(SAID) >= set(form.defaults)
    for option in set(SAID) - set(form.defaults):
        with pytest.raises(InputError, match=f"{option}: this means nothing for the format {name}"):
            model.export(name, tmp_path / "out", **{option: SAID[option]})
    for option in form.defaults:
        assert option in {one.name for one in fields(options_of(form, {option: form.defaults[option]}))}
    with pytest.raises(UnknownArgumentError, match="Did you mean 'overwrite'"):
        model.export(name, tmp_path / "out", overwrit=True)
    assert not list(tmp_path.iterdir())


def test_the_command_line(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save_pretrained(tmp_path / "model")
    whole = [str(tmp_path / "model"), str(tmp_path / "out")]
    for words, said in (
        ([*whole, "--format", "onxn"], "Did you mean 'onnx'"),
        ([*whole, "--format", "torch", "--opset", "20"], "opset: this means nothing for the format torch"),
        ([*whole, "--format", "torch", "--dtype", "fp61"], "Did you mean 'fp16'"),
        ([*whole, "--format", "torch", "--task", "text-generatoin"], "Did you mean 'text-generation'"),
        ([*whole, "--format", "safetensors", "--layout", "hbu"], "Did you mean 'hub'"),
        ([*whole, "--format", "safetensors", "--max-shard-size", "much"], "no such size"),
        ([*whole, "--format", "gguf", "--task", "text-generation"], "task: this means nothing for the format gguf"),
        (["--check", str(tmp_path / "model"), "--dtype", "fp16"], "--dtype"),
    ):
        assert main(["export", *words]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and "Traceback" not in told, told
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_help_says_which_option_goes_with_which(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    told = capsys.readouterr().out
    for form in FORMATS.values():
        assert form.name in told and form.what in told
    assert "--dtype auto|fp32|fp16|bf16 --layout hub|consolidated|modules --max-shard-size" in told


def test_without_a_compiler(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingToolError, match=r"needs a C\+\+ compiler; expected g\+\+; found no such program"):
        model.export("aot", tmp_path / "out")
    monkeypatch.setenv("CXX", "nosuchcc -O2")
    with pytest.raises(MissingToolError, match=r"expected nosuchcc -O2 \(named by CXX\)"):
        model.export("aot", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_conditions_that_only_refuse_one() -> None:
    """A trace of several rows may note that there is not one; what fits sizes together stays."""
    for told in ("L['x'].size()[0] != 1", "1 != L['x'].size()[0]", "2 <= L['x'].size()[1]", "L['x'].size()[1] >= 2"):
        assert _of_one(told), told
    for told in ("L['x'].size()[0] == L['y'].size()[0]", "L['x'].size()[1] <= 32", "L['x'].size()[1] >= 20",
                 "L['x'].size()[1] == (L['y'].size()[1] + 1)", "Mod(L['x'].size()[1], 2) == 0"):  # fmt: skip
        assert not _of_one(told), told
