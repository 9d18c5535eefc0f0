"""The ecosystem's functions for code in repositories, compared with the reference where it does the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from code_folders import FILES, canary, home, mine, put  # noqa: F401

from omniform import dynamic_module_utils as ours
from omniform.core.errors import CodeError, DependencyError, InputError, RepoError, TrustError
from omniform.hub.code import copies, mode
from reference import transformers

pytestmark = pytest.mark.usefixtures("home")
theirs = transformers.dynamic_module_utils

SOURCES = {
    "plain": "import os|import torch.nn as nn|from numpy import array|from .a import b|from .sub.c import d",
    "top": "from ..up import x|import a.b, c",
    "tried": "import os|try:|    import bar|except ImportError:|    raise ImportError()",
    "in a function": "import os|def f():|    try:|        import bar|    except Exception:|        pass|    import baz",
    "tried twice": "try:|    import bar|    import baz|except (ImportError, ValueError):|    x = 1|finally:|    y = 2",
    "nested": "try:|    try:|        import bar|    except ImportError:|        import boo|except:|    pass",
    "flash": "from transformers.utils import x|if is_flash_attn_2_available():|    from flash_attn import x",
    "or": "if is_flash_attn_2_available() or is_torch_available():|    import flash_attn|else:|    import other",
    "condition": "import os|if os.name == 'nt':|    import winreg",
    "class": "class A:|    import inner|    def f(self):|        from deep.er import x",
}
"""Texts, with a bar at the end of each line."""


@pytest.mark.parametrize("name", SOURCES)
def test_imports_are_the_references(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.py"
    path.write_text(SOURCES[name].replace("|", "\n"))
    assert sorted(ours.get_imports(path)) == sorted(theirs.get_imports(path))
    assert sorted(ours.get_relative_imports(path)) == sorted(theirs.get_relative_imports(path))


def test_imports_that_only_a_parser_sees(tmp_path: Path) -> None:
    text = (
        "from typing import TYPE_CHECKING\nimport typing\n'''\nimport not_this\n'''\n# import nor_this\n"
        "if TYPE_CHECKING:\n    import checked\nelse:\n    import yaml_less\n"
        "if typing.TYPE_CHECKING:\n    from .t import T\n"
        "from . import one, two\nfrom .sub \\\n    import x\n"
    )
    path = put(tmp_path, {"m.py": text}) / "m.py"
    assert ours.get_imports(path) == ["typing", "yaml_less"]
    assert set(ours.get_relative_imports(path)) == {"t", "one", "two", "sub"}


def test_files_that_a_file_needs(tmp_path: Path) -> None:
    folder = put(tmp_path, {"a.py": "from .b import x\n", "b.py": "from .c import x\nfrom .a import y\n", "c.py": ""})
    assert sorted(ours.get_relative_import_files(folder / "a.py")) == [str(folder / "b.py"), str(folder / "c.py")]
    assert set(theirs.get_relative_import_files(folder / "a.py")) >= {str(folder / "b.py"), str(folder / "c.py")}
    mine(folder / "deep")
    found = ours.get_relative_import_files(folder / "deep" / "modeling_mine.py")
    assert {Path(path).relative_to(folder / "deep").as_posix() for path in found} == FILES.keys() - {"modeling_mine.py"}
    with pytest.raises(RepoError, match=r"gone\.py"):
        ours.get_relative_import_files(put(folder, {"d.py": "from .gone import x\n"}) / "d.py")
    with pytest.raises(CodeError, match="leads out of its folder"):
        ours.get_relative_import_files(put(folder / "e", {"e.py": "from ..a import x\n"}) / "e.py")


def test_all_packages_that_are_missing_are_named(tmp_path: Path) -> None:
    path = put(tmp_path, {"m.py": "import torch\nimport no_such_one\nimport cv2_no_such\nfrom .x import y\n"}) / "m.py"
    with pytest.raises(DependencyError, match=r"cv2_no_such, no_such_one.*pip install cv2_no_such no_such_one"):
        ours.check_imports(path)
    with pytest.raises(ImportError):
        ours.check_imports(path)
    assert ours.check_imports(put(tmp_path, {"n.py": "import torch\nfrom .x import y\n"}) / "n.py") == ["x"]


def test_a_class_from_a_folder(tmp_path: Path) -> None:
    folder = mine(tmp_path / "model")
    with pytest.raises(TrustError, match=r"modeling_mine\.py.*trust_remote_code=True"):
        ours.get_class_from_dynamic_module("modeling_mine.MineModel", folder)
    with pytest.raises(TrustError):
        ours.get_class_from_dynamic_module("modeling_mine.MineModel", folder, trust_remote_code=False)
    kind = ours.get_class_from_dynamic_module("modeling_mine.MineModel", folder, trust_remote_code=True)
    config = ours.get_class_from_dynamic_module("configuration_mine.MineConfig", str(folder), code_revision="x")
    assert kind.__name__ == "MineModel" and kind.config_class is config  # accepted by now
    put(folder, {"sub/more.py": "OUT = 5\n"})
    with pytest.raises(TrustError, match="changed"):
        ours.get_class_from_dynamic_module("modeling_mine.MineModel", folder)
    other = put(tmp_path / "inner", {"deep/x.py": "class X:\n    pass\n", "x.py": "class X:\n    y = 1\n"})
    found = ours.get_class_from_dynamic_module("x.X", other, subfolder="deep", trust_remote_code=True)
    assert not vars(found).get("y")
    assert vars(ours.get_class_from_dynamic_module("x.X", other, trust_remote_code=True))["y"] == 1
    assert ours.get_class_from_dynamic_module("deep/x.X", other, trust_remote_code=True) is found


def test_a_file_in_the_modules_cache(tmp_path: Path) -> None:
    run = tmp_path / "canary"
    folder = put(
        tmp_path / "m",
        {"a.py": "from .b import B\nclass A(B):\n    pass\n", "b.py": f"{canary(run)}class B:\n    pass\n"},
    )
    path = ours.get_cached_module_file(folder, "a.py")
    assert (Path(ours.HF_MODULES_CACHE) / path).read_text() == (folder / "a.py").read_text()
    assert (Path(ours.HF_MODULES_CACHE) / path).with_name("b.py").is_file()
    with pytest.raises(TrustError, match="never accepted"):
        ours.get_class_in_module("A", path)
    assert not run.exists()
    kind = ours.get_class_from_dynamic_module("a.A", folder, trust_remote_code=True)
    assert ours.get_class_in_module("A", path) is kind and run.exists()
    run.unlink()
    assert ours.get_class_in_module("A", path, force_reload=True) is not kind and not run.exists()
    with pytest.raises(CodeError, match="no such name"):
        ours.get_class_in_module("Z", path)
    for odd in ("../x.py", "a.py", "omniform_modules/../../x/y.py", "/etc/passwd", "os"):
        with pytest.raises(CodeError, match="no file of the modules cache"):
            ours.get_class_in_module("A", odd)


def test_the_modules_cache_as_a_place_of_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert Path(ours.HF_MODULES_CACHE) == copies.modules_cache() == tmp_path / "modules"
    ours.init_hf_modules()
    ours.create_dynamic_module("one/two")
    assert sys.path[-1] == str(tmp_path / "modules")
    assert all((tmp_path / "modules" / part / "__init__.py").is_file() for part in ("", "one", "one/two"))
    for odd in ("../x", "/tmp/x", "a/../../b"):
        with pytest.raises(CodeError, match="leads out"):
            ours.create_dynamic_module(odd)
    from omniform.utils import HF_MODULES_CACHE

    assert str(tmp_path / "modules") == HF_MODULES_CACHE


def test_who_trusts() -> None:
    for local in (True, False):
        for remote in (True, False):
            for said in (True, False, None):
                args = (said, "org/name", local, remote)
                try:
                    expected = theirs.resolve_trust_remote_code(*args)
                except ValueError:
                    with pytest.raises(ValueError, match="org/name"):
                        ours.resolve_trust_remote_code(*args)
                    continue
                assert ours.resolve_trust_remote_code(*args) == expected
    with pytest.raises(TrustError, match="my words"):
        ours.resolve_trust_remote_code(None, "a/b", False, True, error_message="my words", upstream_repo="c/d")
    for odd in ("False", 1, "yes"):
        with pytest.raises(InputError, match="trust_remote_code"):
            ours.resolve_trust_remote_code(odd, "a/b", False, True)
    assert mode.mode_of("sandbox") == "sandbox"


def test_requirements(tmp_path: Path) -> None:
    text = "# a comment\n\ntorch>=1.0  # any\nno-such-package>=2\nnumpy<0.1\nxyz; python_version < '3'\n-r other.txt\n"
    put(tmp_path, {"requirements.txt": text, "fine.txt": "torch\nnumpy>=1\n"})
    with pytest.raises(
        DependencyError, match=r"no-such-package>=2 \(not installed\), numpy<0\.1 \(installed: .*pip install"
    ):
        ours.check_python_requirements(tmp_path)
    ours.check_python_requirements(tmp_path, "fine.txt")
    ours.check_python_requirements(tmp_path, "none.txt")
