"""Code that must not run, and code that cannot: nothing unasked, and typed errors for all that is wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from code_folders import FILES, canary, config_json, home, mine, put  # noqa: F401
from omniform.dynamic_module_utils import get_class_from_dynamic_module

import omniform
from omniform import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer
from omniform.core.errors import CodeError, ConfigError, OmniformError, RepoError, TrustError, UnknownNameError
from omniform.hub.code import asking, copies, trust
from omniform.hub.code.named import class_named
from omniform.hub.files import locate

pytestmark = pytest.mark.usefixtures("home")

LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40,
}  # fmt: skip


def named(folder: Path, file: str, name: str = "C", auto: str = "AutoModel") -> type | None:
    return class_named(auto, locate(folder), {auto: f"{file}.{name}"}, True)


# ---- nothing runs unasked


@pytest.fixture
def evil(tmp_path: Path) -> tuple[Path, Path]:
    """A folder all of whose files leave a canary, and where the canary would be."""
    run = tmp_path / "canary"
    bad = canary(run) + "class Evil:\n    pass\ndef generate(**kwargs):\n    pass\n"
    folder = tmp_path / "evil"
    AutoModelForCausalLM.from_config(omniform.LlamaConfig(**LLAMA)).save_pretrained(folder)
    autos = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoImageProcessor", "AutoProcessor")
    auto_map = {**dict.fromkeys(autos, "evil.Evil"), "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    task = {"impl": "evil.Evil", "pt": ["AutoModelForCausalLM"], "type": "text"}
    more = {"auto_map": auto_map, "trust_remote_code": True, "custom_pipelines": {"evil-task": task}}
    for name in (
        "config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json",
        "generation_config.json",
    ):  # fmt: skip
        path = folder / name
        raw = json.loads(path.read_text()) if path.exists() else {}
        put(folder, {name: json.dumps({**raw, **more})})
    names = (
        "evil", "__init__", "conftest", "sitecustomize", "setup", "torch", "json", "config", "configuration_llama",
        "modeling_llama", "tokenization_llama", "tokenizer", "custom_generate/generate", "custom_generate/__init__",
    )  # fmt: skip
    put(folder, {f"{name}.py": bad for name in names})
    return folder, run


def test_a_malicious_folder(evil: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = evil
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[3, 4]])
    doors = (AutoConfig, AutoModel, AutoTokenizer, AutoProcessor, omniform.AutoImageProcessor)
    doors += (omniform.AutoFeatureExtractor, omniform.GenerationConfig, omniform.LlamaConfig, omniform.LlamaForCausalLM)
    for cwd in (folder.parent, folder):
        monkeypatch.chdir(cwd)
        for door in doors:
            for trusted in ({}, {"trust_remote_code": False}, {"trust_remote_code": None}):
                for name in (folder, os.path.relpath(folder)):
                    try:
                        door.from_pretrained(name, **trusted)
                    except OmniformError:
                        continue
        for calls in (
            lambda: omniform.pipeline("text-generation", model=str(folder)),
            lambda: omniform.pipeline("evil-task", model=str(folder)),
            lambda: omniform.pipeline(model=str(folder)),
            lambda: model.generate(ids, custom_generate=str(folder), max_new_tokens=2),
            lambda: model.generate(ids, custom_generate=str(folder), trust_remote_code=False, max_new_tokens=2),
            lambda: AutoModel.from_config(model.config),
            lambda: get_class_from_dynamic_module("evil.Evil", folder),
            lambda: omniform.embed(["x"], model=str(folder)),
            lambda: omniform.plan(str(folder)),
        ):
            try:
                calls()
            except OmniformError:
                continue
        model.generate(ids, max_new_tokens=2)
    assert not run.exists()
    assert not trust.store().exists() and not copies.modules_cache().exists()


def test_files_that_shadow_modules_are_not_imported(tmp_path: Path) -> None:
    run = tmp_path / "canary"
    code = (
        "import json, torch\nfrom torch import nn\nclass C(nn.Module):\n    from_pretrained = classmethod(json.dumps)\n"
    )
    files = {f"{name}.py": canary(run) for name in ("json", "torch", "__init__", "nn", "sitecustomize")}
    found = named(put(tmp_path / "m", {"c.py": code, **files}), "c")
    assert issubclass(found, torch.nn.Module) and not run.exists()


def test_only_what_was_shown_runs(tmp_path: Path) -> None:
    """Neither a file that is imported by a name made at run time, nor a changed copy, nor a stale cache of bytecode."""
    run = tmp_path / "canary"
    code = "import importlib\nimportlib.import_module('.hidden', __package__)\n"
    folder = put(tmp_path / "a", {"c.py": code, "hidden.py": canary(run)})
    with pytest.raises(CodeError, match=r"No module named.*hidden"):
        named(folder, "c")
    folder = put(
        tmp_path / "b",
        {"c.py": "from .d import D\nclass C(D):\n    pass\n", "d.py": "class D:\n    from_pretrained = 1\n"},
    )
    path = omniform.dynamic_module_utils.get_cached_module_file(folder, "c.py")
    copied = Path(omniform.dynamic_module_utils.HF_MODULES_CACHE) / path
    for file in ("c.py", "d.py"):
        copied.with_name(file).write_text(canary(run) + "class C: pass\nclass D: pass\n")
    import py_compile

    for file in copied.parent.glob("*.py"):
        py_compile.compile(str(file))
    assert vars(named(folder, "c").__mro__[1])["from_pretrained"] == 1
    assert not run.exists() and copied.read_text() == (folder / "c.py").read_text()


def test_changed_code_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "canary"
    folder = mine(tmp_path / "model")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    put(folder, {"sub/more.py": f"{canary(run)}OUT = 3  # \u202e \x1b[2K\n"})
    for door in (AutoConfig, AutoModel):  # the whole of it is asked about, whichever part is loaded
        with pytest.raises(TrustError, match=r"changed.*sub/more\.py \(changed\).*omniform trust"):
            door.from_pretrained(folder, trust_remote_code=True)
    answers = iter([False, True])
    monkeypatch.setattr(asking, "at_terminal", lambda: True)
    monkeypatch.setattr(asking, "yes", lambda question: next(answers))
    with pytest.raises(TrustError):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert not run.exists()
    shown = capsys.readouterr().err
    assert "-OUT = 3" in shown and "+open(" in shown and "# \\u202e \\x1b[2K" in shown and "\x1b" not in shown
    assert class_named("AutoModel", locate(folder), {"AutoModel": "modeling_mine.MineModel"}, True) and run.exists()
    # A file that the checkpoint leads to now, and did not before, is a change as well.
    monkeypatch.setattr(asking, "at_terminal", lambda: False)
    put(folder, {"config.json": config_json({"AutoModel": "new.New"}), "new.py": "class New: pass\n"})
    with pytest.raises(TrustError, match=r"new\.py \(new\)"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)


def test_a_record_that_is_damaged_trusts_nothing(tmp_path: Path) -> None:
    folder = mine(tmp_path / "model")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    for text in (
        "{",
        "[]",
        "{}",
        '{"repositories": 3}',
        '{"repositories": {"x": [{"files": {}, "commit": "", "date": ""}]}}',
    ):
        trust.store().write_text(text)
        with pytest.raises(ConfigError, match="trust"):
            AutoConfig.from_pretrained(folder, trust_remote_code=True)


def test_homes_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"file": ""})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file" / "home"))  # no rights are needed to be refused this
    folder = mine(tmp_path / "model")
    for _ in range(2):
        kind = type(AutoConfig.from_pretrained(folder, trust_remote_code=True))
    assert kind.__name__ == "MineConfig"
    put(folder, {"sub/more.py": "OUT = 9\n"})
    with pytest.raises(TrustError):  # it is remembered for this process
        AutoConfig.from_pretrained(folder, trust_remote_code=True)


# ---- names


@pytest.mark.parametrize(
    "name",
    [
        "../x.C", "/etc/x.C", "a/../../x.C", "..x.C", "x", "x.", ".C", "", "x.C.D/..", "x y.C", "x.C d", "./x.C",
        "a//x.C", "x\0.C", "x.__import__('os')", "C:\\x.C", "..--x.C", "--x.C", "/etc--x.C", "a/b/c--x.C",
        "../up--x.C", "~--x.C", "a--b--x.C", "http://host/x.C", "-x.C", 5, None, ["x.C", "y.C", "z.C"], {"a": "b"},
        "x.py", "x.1",
    ],
)  # fmt: skip
def test_names_that_are_none(tmp_path: Path, name: object) -> None:
    run = tmp_path / "canary"
    put(tmp_path, {"x.py": canary(run) + "class C: pass\n", "repo/config.json": config_json({"AutoModel": name})})
    put(tmp_path, {"repo/a/b/c/x.py": canary(run)})
    with pytest.raises((CodeError, RepoError, UnknownNameError)):
        AutoModel.from_pretrained(tmp_path / "repo", trust_remote_code=True)
    if name is not None:
        with pytest.raises((CodeError, RepoError)):
            get_class_from_dynamic_module(name, tmp_path / "repo", trust_remote_code=True)
    assert not run.exists()


@pytest.mark.parametrize("auto_map", ["x.C", ["x.C"], 5, {"AutoModel": 1.5}, {1: 2}, [[]], True])
def test_maps_that_are_none(tmp_path: Path, auto_map: object) -> None:
    folder = put(tmp_path, {"config.json": json.dumps({"model_type": "mine", "auto_map": auto_map})})
    with pytest.raises(OmniformError):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(OmniformError):
        AutoModel.from_pretrained(folder)


def test_another_repository_is_never_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "canary"
    put(tmp_path, {"org/repo/x.py": canary(run), "m/config.json": config_json({"AutoModel": "org/repo--x.C"})})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepoError, match="org/repo"):
        AutoModel.from_pretrained("m", trust_remote_code=True)
    assert not run.exists()


def test_links_that_lead_out(tmp_path: Path) -> None:
    run = tmp_path / "canary"
    put(
        tmp_path,
        {
            "out/c.py": canary(run) + "class C: pass\n",
            "m/a.py": "from .link import C\n",
            "m/in.py": "class C: from_pretrained = 1\n",
        },
    )
    (tmp_path / "m" / "c.py").symlink_to(tmp_path / "out" / "c.py")
    (tmp_path / "m" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "m" / "link.py").symlink_to("../out/c.py")
    (tmp_path / "m" / "inner.py").symlink_to("in.py")
    for file in ("c", "link/c", "a"):
        with pytest.raises(CodeError, match="leads out"):
            named(tmp_path / "m", file)
    assert not run.exists()
    assert named(tmp_path / "m", "inner").__name__ == "C"
    # The Hub's own cache is made of links, and a snapshot in it is a folder like any other.
    put(tmp_path, {"models--a--b/blobs/123": "class C: from_pretrained = 1\n"})
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "c.py").symlink_to("../../blobs/123")
    (snapshot / "d.py").symlink_to(tmp_path / "out" / "c.py")
    assert named(snapshot, "c").__name__ == "C"
    with pytest.raises(CodeError, match="leads out"):
        named(snapshot, "d")


# ---- code that cannot run


@pytest.mark.parametrize(
    ("files", "expected", "words"),
    [
        ({"c.py": "class C(:\n"}, CodeError, "not Python.*line 1"),
        ({"c.py": b"\x00\x01\x02"}, CodeError, "not Python"),
        ({"c.py": b"\x7fELF\xff\xfe"}, CodeError, "not Python"),
        ({"c.py": b"# coding: no-such\nclass C: pass\n"}, CodeError, "not Python"),
        ({"c.py": "(" * 5000}, CodeError, "not Python"),
        ({"c.py": "x = 1\n"}, CodeError, "no such name.*C"),
        ({"c.py": "def C(): pass\n"}, CodeError, "no model.*a function"),
        ({"c.py": "C = 5\n"}, CodeError, "no model.*a int"),
        ({"c.py": "from omniform import PreTrainedConfig as C\n"}, CodeError, "no model.*a config"),
        ({"c.py": "from omniform import PreTrainedTokenizer as C\n"}, CodeError, "no model.*a tokenizer"),
        ({"c.py": "class C: pass\n"}, CodeError, "cannot be loaded.*from_pretrained"),
        ({"c.py": "raise ValueError('boo')\n"}, CodeError, "failed.*ValueError: boo"),
        ({"c.py": "import sys\nsys.exit(3)\n"}, CodeError, "failed.*SystemExit"),
        ({"c.py": "from .d import C\n"}, RepoError, r"not there.*d\.py"),
        ({"c.py": "from .d import C\n", "d.py": "from .e.f import C\n"}, RepoError, r"not there.*e/f\.py"),
        ({"c.py": "from ..d import C\n"}, CodeError, "leads out"),
        ({"c.py": "from .d import C\n", "d.py": "class C(:\n"}, CodeError, r"d\.py: this is not Python"),
        ({"c.py": "from .d import C\n", "d.py": "from .c import C\n"}, CodeError, "in a circle"),
        ({"c.so": "x"}, RepoError, r"c\.py"),
    ],
)
def test_code_that_cannot_run(tmp_path: Path, files: dict[str, str | bytes], expected: type, words: str) -> None:
    folder = put(tmp_path / "m", {**files, "config.json": config_json({"AutoModel": "c.C"})})
    for _ in range(2):
        with pytest.raises(expected, match=words) as caught:
            AutoModel.from_pretrained(folder, trust_remote_code=True)
        assert isinstance(caught.value, (ImportError, OSError))
    put(
        folder,
        {"c.py": "import torch\nclass C(torch.nn.Module):\n    from_pretrained = classmethod(lambda k, n: 'it')\n"},
    )
    trust.forget(str(folder.resolve()))
    assert AutoModel.from_pretrained(folder, trust_remote_code=True) == "it"  # nothing of it is left behind


OTHERS = {
    "AutoTokenizer": "PreTrainedConfig", "AutoConfig": "PreTrainedModel", "AutoProcessor": "PreTrainedTokenizer",
    "AutoImageProcessor": "PreTrainedModel",
}  # fmt: skip


@pytest.mark.parametrize(("auto", "base"), OTHERS.items())
def test_classes_of_another_kind(tmp_path: Path, auto: str, base: str) -> None:
    folder = put(tmp_path, {"c.py": f"from omniform import {base}\nclass C({base}):\n    pass\n"})
    with pytest.raises(CodeError, match=f"what is named for {auto} is no"):
        named(folder, "c", auto=auto)


def test_circles_that_python_allows(tmp_path: Path) -> None:
    files = {
        "c.py": "from . import d\nclass C:\n    from_pretrained = 1\n    def other(self):\n        return d.D\n",
        "d.py": "from . import c\nclass D:\n    def other(self):\n        return c.C\n",
    }
    kind = named(put(tmp_path / "m", files), "c")
    assert kind().other()().other() is kind


def test_packages_in_the_folder(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from .c import C\nNAME = 'root'\n",
        "c.py": "from .sub import A, helper\nfrom .sub.deep.er import B\nclass C(A, B):\n    n = helper.N\n",
        "sub/__init__.py": "from .a import *\n",
        "sub/a.py": "from ..top import T\nclass A(T):\n    from_pretrained = 1\n",
        "sub/helper.py": "N = 4\n",
        "sub/deep/er.py": "from ... import NAME\nfrom ..helper import N\nclass B:\n    b = (NAME, N)\n",
        "top.py": "class T:\n    pass\n",
        "unused.py": "raise SystemExit\n",
    }  # fmt: skip
    folder = put(tmp_path / "m", files)
    with pytest.raises(CodeError, match="in a circle"):  # as in Python: the root's own file imports c, which is waiting
        named(folder, "c")
    put(folder, {"__init__.py": "NAME = 'root'\n"})
    trust.forget(str(folder.resolve()))
    kind = named(folder, "c")
    assert kind.n == 4 and kind.b == ("root", 4)
    (only,) = trust.accepted(str(folder.resolve()))
    assert set(only.files) == set(files) - {"unused.py"}


def test_two_revisions_in_one_process(tmp_path: Path) -> None:
    folder = mine(tmp_path / "model")
    old = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    put(folder, {"configuration_mine.py": FILES["configuration_mine.py"].replace("width=4", "width=8")})
    trust.forget(str(folder.resolve()))
    new = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (old.width, new.width) == (4, 8) and type(old) is not type(new) and type(old)().width == 4


# ---- processes


def _load(folder: str, where: str, go: object, out: object) -> None:
    os.environ["HF_HOME"] = where
    go.wait()
    try:
        out.put(AutoConfig.from_pretrained(folder, trust_remote_code=True).width)
    except BaseException as error:
        out.put(repr(error))


def test_processes_that_load_at_once(tmp_path: Path, home: Path) -> None:  # noqa: F811
    folders = [mine(tmp_path / str(i) / "model", **{"sub/more.py": f"OUT = {i}\n"}) for i in range(2)]
    context = multiprocessing.get_context("fork")
    go, out = context.Event(), context.Queue()
    jobs = [context.Process(target=_load, args=(str(folders[i % 2]), str(home), go, out)) for i in range(6)]
    for job in jobs:
        job.start()
    go.set()
    assert [out.get(timeout=60) for _ in jobs] == [4] * 6
    for job in jobs:
        job.join()
    assert {len(found) for found in trust.everything().values()} == {1} and len(trust.everything()) == 2
    left = [path for path in home.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert not left
    for path in copies.modules_cache().rglob("*.py"):
        assert path.read_text() in {*FILES.values(), "OUT = 0\n", "OUT = 1\n"}
