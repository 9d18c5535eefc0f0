"""Configs: composed of files, checked against types, each mistake told with its file and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from omniform.bench.compose import PACKAGED, compose, names
from omniform.bench.config import BenchmarkConfig
from omniform.bench.made import model_folder
from omniform.core.errors import ConfigError

FILES = {
    "base.yaml": "threads: 1\nrounds: 3\nmodel: made:llama-tiny\n",
    "main.yaml": "defaults:\n  - base\n  - scenario: decode\n  - _self_\nname: main\nrounds: 4\n",
    "scenario/decode.yaml": "kind: decode\nprompt_tokens: 5\nnew_tokens: ${scenario.prompt_tokens}\n",
    "scenario/prefill.yaml": "kind: prefill\nprompt_tokens: 9\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def loaded(folder: Path, *overrides: str, name: str = "main", multirun: bool = False) -> list[BenchmarkConfig]:
    return BenchmarkConfig.load(name, config_dir=str(folder), overrides=overrides, multirun=multirun)


def test_files_that_come_later_win_and_values_refer_to_one_another(folder: Path):
    (one,) = loaded(folder)
    assert (one.name, one.threads, one.rounds) == ("main", 1, 4)
    assert one.scenario == {"kind": "decode", "prompt_tokens": 5, "new_tokens": 5}


def test_a_group_that_no_config_knows_holds_values_for_others(folder: Path):
    for choice, tokens in (("full", 512), ("tiny", 8)):
        (folder / "size").mkdir(exist_ok=True)
        (folder / f"size/{choice}.yaml").write_text(f"length: {tokens}\n")
    (folder / "sized.yaml").write_text(
        "defaults:\n  - main\n  - size: full\nscenario:\n  prompt_tokens: ${size.length}\n"
        "sweep:\n  size: [full, tiny]\n"
    )
    assert [one.scenario["prompt_tokens"] for one in loaded(folder, name="sized")] == [512, 8]
    (one,) = loaded(folder, "size=tiny", name="sized")
    assert one.scenario["prompt_tokens"] == 8
    with pytest.raises(ConfigError, match="unknown key 'size'"):  # chosen of no group, it is a mistake
        loaded(folder, "size.length=3")


def test_the_place_of_self_is_told(folder: Path):
    (folder / "main.yaml").write_text("defaults:\n  - _self_\n  - base\n  - scenario: decode\nname: main\nrounds: 4\n")
    assert loaded(folder)[0].rounds == 3


def test_overrides(folder: Path):
    (one,) = loaded(folder, "scenario.prompt_tokens=7", "backend.dtype=float32", "seconds=2", "contenders=[omniform]")
    assert one.scenario["new_tokens"] == 7
    assert one.contenders[0].dtype == "float32" and one.seconds == 2.0
    (other,) = loaded(folder, "scenario=prefill", "+scenario.batch=2")
    assert other.scenario == {"kind": "prefill", "prompt_tokens": 9, "batch": 2}


def test_contenders_take_what_all_have_in_common(folder: Path):
    (one,) = loaded(folder, "backend.dtype=bfloat16", "contenders=[omniform,{kind: transformers, dtype: float32}]")
    assert [(c.kind, c.dtype) for c in one.contenders] == [("omniform", "bfloat16"), ("transformers", "float32")]


def test_sweeps(folder: Path):
    swept = loaded(folder, "scenario.batch=1,2", "backend.dtype=float32,bfloat16", multirun=True)
    assert [(c.scenario["batch"], c.backend.dtype) for c in swept] == [
        (1, "float32"), (1, "bfloat16"), (2, "float32"), (2, "bfloat16"),
    ]  # fmt: skip
    main = folder / "main.yaml"
    main.write_text(main.read_text() + "sweep:\n  scenario:\n    batch: [1, 4]\n")
    assert [c.scenario["batch"] for c in loaded(folder)] == [1, 4]
    assert [c.scenario["batch"] for c in loaded(folder, "scenario.batch=3")] == [3]
    assert len(loaded(folder, "contenders=[omniform],[omniform,transformers]", "rounds=2,3", multirun=True)) == 8


WRONG = {
    "scenario.prompt_tokns=3": "unknown key 'scenario.prompt_tokns'. Did you mean 'prompt_tokens'?",
    "roundz=3": "Did you mean 'rounds'?",
    "rounds=many": "'rounds' cannot be this; expected an integer; found 'many'",
    "rounds=1,2": "need --multirun",
    "rounds=true": "expected an integer",
    "rounds=0": "expected 1 or more",
    "scenario.new_tokens=0": "new_tokens is 0",
    "scenario.new_tokens=1": "decoding begins with the second token",
    "scenario.beams=2": "take generate",
    "scenario.ragged=true": "there is one",
    "scenario.shared=5": "leaves nothing",
    "scenario.kind=decod": "Did you mean 'decode'?",
    "scenario=decod": "Did you mean 'decode'?",
    "scenario=dir/decode": "keys and values",
    "backend.kind=transformer": "Did you mean 'transformers'?",
    "contenders=[omniform,omniform]": "two contenders are called 'omniform'",
    "contenders=[none]": "none does not",
    "clock=cpu threads=2": "Set threads=1",
    "clock=clok": "expected wall or cpu",
    "rounds": "this changes nothing",
    "seconds=${nowhere}": "refers to what is not there",
    "backend.options=3": "expected keys and values",
    "contenders=3": "expected a list",
    "rounds=[1": "this cannot be read",
    "noise.repeats=x": "'noise.repeats' cannot be this",
}


@pytest.mark.parametrize("change", WRONG)
def test_what_cannot_be_is_told(folder: Path, change: str):
    changes = [change] if "$" in change or "[" in change else change.split()
    with pytest.raises(ConfigError) as told:
        loaded(folder, *changes)
    assert WRONG[change] in str(told.value)


def test_the_file_of_a_mistake_is_named(folder: Path):
    decode = folder / "scenario" / "decode.yaml"
    decode.write_text("kind: decode\nprompt_tokns: 5\n")
    with pytest.raises(ConfigError) as told:
        loaded(folder)
    assert str(told.value).startswith(f"{decode}: unknown key")


def test_a_config_that_is_not_there(folder: Path):
    with pytest.raises(ConfigError, match=r"there is no config 'mian'.*Did you mean 'main'.*Known: base, main"):
        loaded(folder, name="mian")
    with pytest.raises(ConfigError, match="no such folder"):
        loaded(folder / "nowhere")
    with pytest.raises(ConfigError, match="no name of a config"):
        loaded(folder, name="../main")


def test_circles_and_files_that_are_none(folder: Path):
    (folder / "base.yaml").write_text("defaults: [main]\n")
    with pytest.raises(ConfigError, match=r"circle; found main -> base -> main"):
        loaded(folder)
    for text, said in {
        "a: [": "this is no YAML", "- 1": "keys and values", "defaults: base": "expected a list of names",
        "defaults: [{scenari: decode}]": "Did you mean 'scenario'?", "a: 1\na: 2": "this is no YAML",
    }.items():  # fmt: skip
        (folder / "base.yaml").write_text(text + "\n")
        with pytest.raises(ConfigError) as told:
            loaded(folder)
        assert said in str(told.value) and "base.yaml" in str(told.value)


def test_a_sweep_that_is_none(folder: Path):
    (folder / "main.yaml").write_text(FILES["main.yaml"] + "sweep: 3\n")
    with pytest.raises(ConfigError, match="'sweep' cannot be this"):
        loaded(folder)


@pytest.mark.parametrize("name", [name for name in names(PACKAGED) if name != "base"])
def test_configs_that_come_with_omniform(name: str):
    for one in compose(None, name):
        assert BenchmarkConfig.of(one).name


def test_python_alone():
    one = BenchmarkConfig.of({"scenario": {"kind": "generate"}, "contenders": ["omniform"], "threads": 1})
    assert one.contenders[0].title() == "omniform"
    with pytest.raises(ConfigError, match="'scenario' is missing"):
        BenchmarkConfig.of({})


BERT = """{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 32,
"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64, "dtype": "float16"}"""


def test_a_model_made_of_a_config_beside_the_file_that_names_it(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMNIFORM_BENCH_CACHE", str(tmp_path / "cache"))
    (folder / "models").mkdir()
    (folder / "models" / "bert.json").write_text(BERT)
    main = folder / "main.yaml"
    main.write_text(main.read_text() + "model: made:models/bert.json\n")
    (one,) = loaded(folder)
    made = Path(model_folder(one.model))
    assert made.parent.parent == tmp_path / "cache" and model_folder(one.model) == str(made)  # made once
    weight = load_file(made / "model.safetensors")["bert.encoder.layer.0.attention.self.query.weight"]
    assert str(weight.dtype) == "torch.float16" and 0.01 < float(weight.float().std()) < 0.03
    (folder / "models" / "bert.json").write_text(BERT.replace("64", "65"))
    assert model_folder(one.model) != str(made)


def test_a_folder_gives_what_lies_beside_the_weights(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OMNIFORM_BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(BERT)
    (tmp_path / "bert" / "tokenizer_config.json").write_text("{}")
    made = Path(model_folder(f"made:{tmp_path / 'bert'}"))
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= {one.name for one in made.iterdir()}
    with pytest.raises(ConfigError, match=r"no checkpoint is made of this; found No such file"):
        model_folder("made:nowhere/bert.json")


def test_a_scenario_lies_beside_the_file_that_names_it(folder: Path):
    (folder / "own.py").write_text(
        "from dataclasses import dataclass\nfrom omniform_bench import Scenario\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Own(Scenario):\n    count: int = 1\n"
    )
    (folder / "scenario" / "own.yaml").write_text("kind: ../own.py:Own\ncount: 3\n")
    (one,) = loaded(folder, "scenario=own")
    assert one.scenario["count"] == 3 and Path(str(one.scenario["kind"]).removesuffix(":Own")).is_file()


def test_what_is_swept_over_is_known_apart_from_what_was_typed(folder: Path):
    main = folder / "main.yaml"
    main.write_text(main.read_text() + "sweep:\n  scenario:\n    batch: [1, 4]\n")
    assert [one.swept for one in loaded(folder, "rounds=2")] == [("scenario.batch=1",), ("scenario.batch=4",)]
    assert [one.swept for one in loaded(folder, "rounds=2,3", "scenario.batch=1", multirun=True)] == [
        ("rounds=2",), ("rounds=3",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("goals={transformer: 2}", "Did you mean 'transformers'?"),
        ("goals={omniform: 2}", "none of those that the first contender is compared with"),
        ("goals={transformers: {decode.latenc: 2}}", "nobody measures 'decode.latenc'. Did you mean 'decode.latency'?"),
        ("goals={transformers: much}", "cannot be this"),
        ("metrics=[prefill.latency]", "nobody measures 'prefill.latency'"),
    ],
)
def test_goals_and_metrics_that_cannot_be(folder: Path, change: str, said: str):
    with pytest.raises(ConfigError) as told:
        loaded(folder, "contenders=[omniform,transformers]", change)
    assert said in str(told.value)
