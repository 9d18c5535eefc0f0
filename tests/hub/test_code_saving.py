"""Code of the user's own goes along when what it made is saved, and comes back with it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from code_folders import FILES, canary, home, mine, put  # noqa: F401

import omniform
from omniform import AutoConfig, AutoModel, AutoTokenizer, dynamic_module_utils, pipeline
from omniform.core.errors import CodeError, InputError, RepoError
from omniform.hub.code import trust
from omniform.pipelines.registry import PIPELINE_REGISTRY
from reference import saved_reference, transformers

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a package of the user's own, and imports modules of it."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def module(name: str, files: dict[str, str] | None = None) -> object:
        put(tmp_path / "site", files or {})
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield module
    for name in [name for name in sys.modules if name.startswith(("pack", "shouting"))]:
        if str(tmp_path) in str(vars(sys.modules[name]).get("__file__")):
            del sys.modules[name]


def own(package, name: str = "pack1"):
    files = {f"{name}/{path}": text for path, text in FILES.items()}
    return package(f"{name}.modeling_mine", {f"{name}/__init__.py": "", **files})


def test_a_model_is_saved_with_its_code(package, tmp_path: Path) -> None:
    module = own(package)
    module.MineConfig.register_for_auto_class()
    module.MineModel.register_for_auto_class("AutoModel")
    model = module.MineModel(module.MineConfig(width=5))
    folder = put(tmp_path / "out", {"sub/note.txt": "mine", "README.md": "hello"})
    model.save_pretrained(folder)
    assert {path: (folder / path).read_text() for path in FILES} == FILES
    assert (folder / "sub/note.txt").read_text() == "mine" and (folder / "README.md").is_file()
    assert not (folder / "__init__.py").exists()
    raw = json.loads((folder / "config.json").read_text())
    expected = {"AutoConfig": "configuration_mine.MineConfig", "AutoModel": "modeling_mine.MineModel"}
    assert raw["auto_map"] == expected
    assert module.MineModel.is_remote_code() and not omniform.LlamaModel.is_remote_code()
    again = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(again.lin.weight, model.lin.weight) and again.config.width == 5
    assert type(again) is not type(model) and type(again).is_remote_code()
    # What came with a checkpoint goes along when it is saved again, wherever that is.
    again.save_pretrained(tmp_path / "second")
    third = AutoModel.from_pretrained(tmp_path / "second", trust_remote_code=True)
    assert {path: (tmp_path / "second" / path).read_text() for path in FILES} == FILES
    assert torch.equal(third.lin.weight, model.lin.weight)
    config = module.MineConfig(width=2)
    config.save_pretrained(tmp_path / "config")
    assert {path.name for path in (tmp_path / "config").iterdir()} == {"config.json", "configuration_mine.py"}
    assert AutoConfig.from_pretrained(tmp_path / "config", trust_remote_code=True).width == 2


def test_code_that_needs_the_package_above(package, tmp_path: Path) -> None:
    files = {
        "pack2/__init__.py": "", "pack2/models/__init__.py": "", "pack2/tools.py": "W = 3\n",
        "pack2/models/m.py": FILES["configuration_mine.py"] + "\nfrom ..tools import W\n",
    }  # fmt: skip
    kind = package("pack2.models.m", files).MineConfig
    kind.register_for_auto_class()
    kind(width=9).save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["auto_map"] == {"AutoConfig": "models/m.MineConfig"}
    assert AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True).width == 9


def test_code_that_is_not_saved(package, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Inner(omniform.PreTrainedConfig):
        model_type = "inner"

    Inner.register_for_auto_class()
    Inner().save_pretrained(tmp_path / "inner")
    assert {path.name for path in (tmp_path / "inner").iterdir()} == {"config.json"}
    assert "auto_map" not in json.loads((tmp_path / "inner/config.json").read_text())
    assert dynamic_module_utils.custom_object_save(Inner(), tmp_path / "inner") == []
    for wrong in ("AutoNothing", "Llama", 5, dict):
        with pytest.raises(InputError, match="no such Auto class"):
            Inner.register_for_auto_class(wrong)
    kind = package("pack3", {"pack3.py": FILES["configuration_mine.py"]}).MineConfig
    kind.register_for_auto_class()
    put(tmp_path / "site", {"pack3.py": "from .gone import x\n"})
    with pytest.raises(RepoError, match=r"gone\.py"):
        kind().save_pretrained(tmp_path / "none")
    put(tmp_path / "site", {"pack3.py": "def (\n"})
    with pytest.raises(CodeError, match="not Python"):
        kind().save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_custom_object_save_as_the_references(package, tmp_path: Path) -> None:
    kind = own(package, "pack4").MineConfig
    kind.register_for_auto_class()
    ours: dict[str, object] = {}
    written = dynamic_module_utils.custom_object_save(kind(), put(tmp_path / "a", {"x": ""}), ours)
    theirs: dict[str, object] = {}
    expected = transformers.dynamic_module_utils.custom_object_save(kind(), put(tmp_path / "b", {"x": ""}), theirs)
    assert [path.name for path in written] == [path.name for path in expected] and ours == theirs
    config, other = kind(), {"auto_map": {"AutoModel": "x.Y"}}
    dynamic_module_utils.custom_object_save(kind(), tmp_path / "a", [config, other])
    assert config.auto_map == {"AutoConfig": "configuration_mine.MineConfig"}
    assert other["auto_map"] == {"AutoModel": "x.Y", "AutoConfig": "configuration_mine.MineConfig"}


TOKENIZER = """
from omniform import PreTrainedTokenizerFast

class Shouting{end}(PreTrainedTokenizerFast):
    def shout(self, text):
        return self.decode(self(text)["input_ids"], skip_special_tokens=True).upper()
"""


@pytest.mark.parametrize("end", ["", "Fast"])
def test_a_tokenizer_with_its_code(package, tmp_path: Path, end: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
    from tiny import word_pieces

    word_pieces().save_pretrained(tmp_path / "plain")
    kind = vars(package(f"shouting{end}", {f"shouting{end}.py": TOKENIZER.format(end=end)}))[f"Shouting{end}"]
    kind.register_for_auto_class("AutoTokenizer")
    tokenizer = kind.from_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "out")
    raw = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    name = f"shouting{end}.Shouting{end}"
    assert raw["auto_map"] == {"AutoTokenizer": [None, name] if end else [name, None]}
    again = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(again).__name__ == f"Shouting{end}" and again.shout("the cat") == "THE CAT"
    plain = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert plain("the cat")["input_ids"] == again("the cat")["input_ids"] and type(plain) is not type(again)


PIPELINE = """
from omniform import Pipeline
from .numbers_of import TIMES

class Counting(Pipeline):
    _load_tokenizer = False

    def _sanitize_parameters(self, **kwargs):
        return {}, {}, {}

    def preprocess(self, text):
        import torch
        return {"input_ids": torch.tensor([[int(one) for one in text.split()]])}

    def _forward(self, inputs):
        return {"shape": tuple(self.model(**inputs).logits.shape), "times": TIMES}

    def postprocess(self, outputs):
        return outputs
"""


def test_a_pipeline_with_its_code(package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIPELINE_REGISTRY, "_tasks", dict(PIPELINE_REGISTRY.supported_tasks))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(vocab_size=40, **sizes), tmp_path / "llama")
    files = {"pack5/__init__.py": "", "pack5/counting.py": PIPELINE, "pack5/numbers_of.py": "TIMES = 4\n"}
    kind = package("pack5.counting", files).Counting
    PIPELINE_REGISTRY.register_pipeline("count", kind, pt_model=omniform.AutoModelForCausalLM, type="text")
    pipe = pipeline("count", model=str(tmp_path / "llama"))
    pipe.save_pretrained(tmp_path / "out")
    raw = json.loads((tmp_path / "out/config.json").read_text())
    expected = {"impl": "counting.Counting", "pt": ["AutoModelForCausalLM"], "type": "text"}
    assert raw["custom_pipelines"] == {"count": expected} and (tmp_path / "out/numbers_of.py").is_file()
    del PIPELINE_REGISTRY.supported_tasks["count"]
    again = pipeline(model=str(tmp_path / "out"), trust_remote_code=True)
    assert again("3 4") == pipe("3 4") == {"shape": (1, 2, 40), "times": 4} and type(again) is not kind
    again.save_pretrained(tmp_path / "second")
    assert pipeline(model=str(tmp_path / "second"), trust_remote_code=True)("3 4") == pipe("3 4")
    assert trust.everything()
