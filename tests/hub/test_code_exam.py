"""What a hostile examiner found: code that is not what is seen, remedies that help, and copies that name code."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from code_folders import CONFIG, FILES, MAP, canary, config_json, home, mine, put  # noqa: F401

import omniform
from omniform import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, dynamic_module_utils
from omniform.cli.main import main
from omniform.core.errors import CodeError, DependencyError, RepoError, TrustError
from omniform.hub.code import asking, trust
from omniform.hub.code.imports import LARGEST_FILE, legible, read_code, scan
from omniform.hub.code.named import class_named
from omniform.hub.files import locate
from reference import transformers

pytestmark = pytest.mark.usefixtures("home")

LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40,
}  # fmt: skip
C = "class C:\n    from_pretrained = 1\n"


def named(folder: Path, file: str = "c", auto: str = "AutoModel") -> type | None:
    return class_named(auto, locate(folder), {auto: f"{file}.C"}, True)


# ---- what is seen is what runs


def test_an_encoding_in_which_a_comment_is_a_statement(tmp_path: Path) -> None:
    run = tmp_path / "canary"
    hidden = "".join(f"+{ch}" for ch in ["AAo-"]) + canary(run)
    text = f"# coding: utf-7\n# a comment {hidden}\n{C}".encode()
    exec(compile(text, "x", "exec"), {})  # Python runs the comment
    assert run.exists()
    run.unlink()
    with pytest.raises(CodeError, match=r"does not run as it is read.*utf-7"):
        named(put(tmp_path / "a", {"c.py": text}))
    folder = put(
        tmp_path / "b", {"c.py": f"try:\n    from .d import x\nexcept ImportError:\n    x = 2\n{C}", "d.py": text}
    )
    assert named(folder) is not None and not run.exists()  # what is only tried does not run either
    latin = put(tmp_path / "d", {"c.py": f"# coding: latin-1\nNAME = '\xe9'\n{C}".encode("latin-1")})
    assert named(latin) is not None
    assert named(put(tmp_path / "e", {"c.py": b"\xef\xbb\xbf" + C.encode()})) is not None


def test_what_is_shown() -> None:
    assert asking.shown("a\tb \u4f60\u597d") == "a\tb \u4f60\u597d"
    for code in (0x3164, 0xFFA0, 0x115F, 0x2800, 0xE0041, 0x061C, 0x180E, 0xFE0F, 0x00A0, 0x2028, 0x1B, 0x0C, 0x200B):
        assert asking.shown(f"x{chr(code)}y") == f"x{ascii(chr(code))[1:-1]}y"
    assert legible(b"# a comment\rimport os\r\nx = 1\n").splitlines() == ["# a comment", "import os", "x = 1"]
    assert legible("# coding: latin-1\n# \xe9".encode("latin-1")).endswith("\xe9")
    found = scan(b"try:\n    import os\nexcept E:\n    pass\nexec('x'); importlib.import_module('y'); m.eval()\n", "")
    assert found.packages == () and found.named == ("os",) and found.unseen == ("exec", "import_module")


def test_look_alikes_in_names_of_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = put(
        tmp_path / "m", {"config.json": config_json({"AutoModel": "m\u043edel.C"}), "m\u043edel.py": "exec('')\n" + C}
    )
    assert main(["trust", "--yes", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "  m\\u043edel.py" in said and "may run what is not shown here: exec" in said


def test_no_import_leads_to_a_file_that_was_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python started in the checkpoint's folder would find it by its own path."""
    run = tmp_path / "canary"
    folder = put(
        tmp_path / "m",
        {"c.py": f"try:\n    import helpers_x\nexcept ImportError:\n    pass\n{C}", "helpers_x.py": canary(run)},
    )
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(CodeError, match=r"nobody has been shown.*import helpers_x.*another folder"):
        named(folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    put(tmp_path, {"m/pack_x/inner.py": canary(run)})
    put(folder, {"c.py": f"import m.pack_x.inner\n{C}"})
    with pytest.raises(CodeError, match=r"nobody has been shown.*import m"):
        named(folder)
    assert not run.exists()


def test_pipes_and_huge_files_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.py")
    for read in (lambda: read_code(tmp_path / "c.py"), lambda: named(tmp_path), lambda: read_code("/dev/zero")):
        with pytest.raises(RepoError):
            read()
    with open(tmp_path / "d.py", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(CodeError, match="absurdly large"):
        named(tmp_path, "d")


def test_a_record_of_another_user_is_not_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mine(tmp_path / "model")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    key, shared = str(folder.resolve()), trust.store()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if os.stat(shared).st_uid == 0:  # what an administrator has accepted counts
        assert trust.accepted(key)
        os.chown(shared, 4321, -1)
    assert not trust.accepted(key)
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert trust.store().name == "trust.12345.json" and json.loads(shared.read_text())["repositories"]


# ---- what a file runs without


def test_what_is_only_tried_needs_nothing(tmp_path: Path) -> None:
    guarded = "try:\n    import flash_nope\n    from .flash import go\nexcept ImportError:\n    go = None\n"
    lazy = "def late():\n    from .other import x\n"
    files = {"c.py": guarded + lazy + C, "flash.py": "import triton_nope\nfrom .gone import x\n", "other.py": "x = (\n"}
    folder = put(tmp_path / "m", files)
    assert named(folder) is not None
    assert set(trust.accepted(str(folder.resolve()))[0].files) == set(files)  # shown all the same
    put(folder, {"c.py": "from .flash import go\n" + C, "flash.py": "import triton_nope\ngo = 1\n"})
    with pytest.raises(DependencyError, match="triton_nope"):
        dynamic_module_utils.get_cached_module_file(folder, "c.py")


# ---- remedies help


def test_the_remedy_names_where_the_code_was_looked_for(hub, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    hub.upload("ann/code", {"code_a.py": CONFIG, "code_b.py": CONFIG})
    for sub in ("a", "b"):
        hub.upload(
            "bob/weights", {f"{sub}/config.json": config_json({"AutoConfig": f"ann/code--code_{sub}.MineConfig"})}
        )
    with hub.connected(cache=tmp_path / "cache"):
        for sub in ("a", "b"):  # another part of the same commit is no change
            AutoConfig.from_pretrained("bob/weights", subfolder=sub, trust_remote_code=True)
        hub.upload("ann/code", {"code_a.py": CONFIG + "# more\n"}, revision="next")
        places = {"subfolder": "a", "code_revision": "next", "revision": "main"}
        with pytest.raises(TrustError) as caught:
            AutoConfig.from_pretrained("bob/weights", trust_remote_code=True, **places)
        assert "code_a.py (changed)" in str(caught.value) and "code_b" not in str(caught.value)
        command = caught.value.remedy.partition(" shows")[0].split()
        assert command[:3] == ["omniform", "trust", "bob/weights"] and len(command) == 9
        assert main([*command[1:], "--yes"]) == 0 and "+# more" in capsys.readouterr().out
        AutoConfig.from_pretrained("bob/weights", trust_remote_code=True, **places)


def test_code_that_was_asked_for_by_name_is_shown_too(tmp_path: Path, capsys, monkeypatch) -> None:
    folder = mine(tmp_path / "a model", **{"extra.py": C})
    load = dynamic_module_utils.get_class_from_dynamic_module
    load("extra.C", folder, trust_remote_code=True)
    put(folder, {"extra.py": C + "# changed\n"})
    with pytest.raises(TrustError, match=r"extra\.py \(changed\).*omniform trust '.*a model'"):
        load("extra.C", folder, trust_remote_code=True)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["trust", str(folder)]) == 0 and "+# changed" in capsys.readouterr().out
    assert load("extra.C", folder).__name__ == "C"


# ---- copies


def test_a_checkpoint_that_is_saved_without_its_code(hub, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    AutoModelForCausalLM.from_config(omniform.LlamaConfig(**LLAMA)).save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text())
    more = {
        "auto_map": {"AutoModelForCausalLM": "own.Mine", "AutoTokenizer": ["own.A", None], "AutoModel": "a/b--own.X"},
        "custom_pipelines": {"t": {"impl": "own.P", "pt": ["AutoModelForCausalLM"]}},
    }
    put(folder, {"config.json": json.dumps({**raw, **more}), "own.py": "raise SystemExit\n"})
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "copy")
    saved = json.loads((tmp_path / "copy/config.json").read_text())
    assert saved["auto_map"] == {"AutoModel": "a/b--own.X"} and "custom_pipelines" not in saved
    model.config.save_pretrained(tmp_path / "config")
    assert "own" not in (tmp_path / "config/config.json").read_text().replace("a/b--own.X", "")
    model.save_pretrained(folder)  # where the code is, its names stay
    saved = json.loads((folder / "config.json").read_text())
    assert {key: saved[key] for key in more} == more
    hub.upload("ann/llama", folder)
    with hub.connected(cache=tmp_path / "cache"):
        AutoModelForCausalLM.from_pretrained("ann/llama").save_pretrained(tmp_path / "fine")
    saved = json.loads((tmp_path / "fine/config.json").read_text())
    assert saved["auto_map"]["AutoModelForCausalLM"] == "ann/llama--own.Mine"
    assert saved["auto_map"]["AutoTokenizer"] == ["ann/llama--own.A", None]
    assert saved["custom_pipelines"]["t"]["impl"] == "ann/llama--own.P"
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "fine")) is omniform.LlamaForCausalLM


# ---- names


IMAGES = """
from {home} import BaseImageProcessor

class Eyes(BaseImageProcessor):
    model_input_names = ["pixel_values"]
    def __init__(self, scale=2, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
"""
PROCESSOR = """
from {home} import ProcessorMixin

class Reader(ProcessorMixin):
    attributes = ["image_processor", "tokenizer"]
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
"""


@pytest.mark.parametrize("base", ["omniform", "transformers"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_processor_whose_parts_are_the_checkpoints_own(tmp_path: Path, base: str, nested: bool) -> None:
    theirs = "transformers.image_processing_utils"
    eyes = {"image_processor_type": "Eyes", "scale": 5, "auto_map": {"AutoImageProcessor": ["eyes.Eyes", None]}}
    reader = {"processor_class": "Reader", "auto_map": {"AutoProcessor": "reader.Reader"}}
    tokens = {f"{word}_token": f"<{word}>" for word in ("unk", "pad")}
    put(
        tmp_path,
        {
            "eyes.py": IMAGES.format(home=theirs if base == "transformers" else base),
            "reader.py": PROCESSOR.format(home=base),
            "processor_config.json": json.dumps({**reader, **({"image_processor": eyes} if nested else {})}),
            "config.json": '{"model_type": "bert"}',
            "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **tokens}),
        },
    )
    if not nested:
        put(tmp_path, {"preprocessor_config.json": json.dumps(eyes)})
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "a": 2}, unk_token="<unk>")).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(TrustError):
        AutoProcessor.from_pretrained(tmp_path)
    assert main(["trust", "--yes", str(tmp_path)]) == 0
    assert set(trust.accepted(str(tmp_path.resolve()))[0].files) == {"eyes.py", "reader.py"}
    found = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(found).__name__ == "Reader" and type(found.image_processor).__name__ == "Eyes"
    assert found.image_processor.scale == 5 and type(found.image_processor).__module__.startswith("omniform.modules.")
    eyes = omniform.AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(eyes) is type(found.image_processor)


def test_a_config_of_ours_for_a_class_of_theirs(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(omniform.LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    code = "from transformers import LlamaForCausalLM\nclass Mine(LlamaForCausalLM):\n    pass\n"
    put(
        tmp_path, {"config.json": json.dumps({**raw, "auto_map": {"AutoModelForCausalLM": "own.Mine"}}), "own.py": code}
    )
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    made = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert isinstance(made, transformers.LlamaForCausalLM) and type(made) is type(loaded)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.allclose(ours(ids).logits, loaded(ids).logits, atol=1e-5)


def test_a_second_load_from_the_hub_asks_once(hub, tmp_path: Path) -> None:
    hub.upload("ann/own", {"config.json": config_json(MAP), **FILES})
    with hub.connected(cache=tmp_path / "cache"):
        AutoModel.from_config(AutoConfig.from_pretrained("ann/own", trust_remote_code=True), trust_remote_code=True)
        AutoConfig.from_pretrained("ann/own", trust_remote_code=True)
        with hub.watch() as log:
            AutoConfig.from_pretrained("ann/own", trust_remote_code=True)
        assert len(log) == 1, str(log)


def test_a_package_that_is_given_a_path_finds_nothing_there(tmp_path: Path) -> None:
    run = tmp_path / "canary"
    code = f"from . import sub\nsub.__path__.append({str(tmp_path / 'hidden')!r})\n"
    tried = "try:\n    from .sub import evil\nexcept ImportError:\n    evil = None\n"
    put(tmp_path, {"m/c.py": code + tried + C, "m/sub/__init__.py": "", "hidden/evil.py": canary(run)})
    assert named(tmp_path / "m") is not None and not run.exists()


def test_a_usual_pipeline_with_a_model_of_theirs(tmp_path: Path) -> None:
    from test_code_embeddings import MODELS
    from tokenizers import Tokenizer, models

    auto_map = {"AutoConfig": "m.NomConfig", "AutoModelForSequenceClassification": "m.NomRanker"}
    config = {"model_type": "nomx", "auto_map": auto_map, "num_labels": 2, "vocab_size": 3}
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "pad_token": "<pad>"}
    files = {"config.json": json.dumps(config), "tokenizer_config.json": json.dumps(tokens), "m.py": MODELS}
    put(tmp_path, files)
    Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "a": 2}, unk_token="<unk>")).save(
        str(tmp_path / "tokenizer.json")
    )
    made = omniform.AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    model = omniform.AutoModelForSequenceClassification.from_config(made, trust_remote_code=True)
    model.save_pretrained(tmp_path)
    pipe = omniform.pipeline("text-classification", model=str(tmp_path), trust_remote_code=True)
    found = pipe("a")
    theirs = transformers.pipeline("text-classification", model=model, tokenizer=str(tmp_path))("a")
    assert found[0]["label"] == theirs[0]["label"] and abs(found[0]["score"] - theirs[0]["score"]) < 1e-6
    with pytest.raises(TrustError):
        omniform.pipeline("text-classification", model=str(tmp_path))
