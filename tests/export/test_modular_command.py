"""``omniform modular``: what it writes, what it checks, and what it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from export.modular_cases import TINY, write
from omniform import convert_modular
from omniform.cli.main import main
from omniform.core.errors import DependencyError, InputError, OmniformError, RepoError, UnknownNameError
from omniform.export.modular import check, convert, writer

MINE = """
from modeling_tiny import TinyMLP


class MineMLP(TinyMLP):
    def forward(self, x):
        return -super().forward(x)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write(tmp_path, "modeling_tiny.py", TINY)
    return write(tmp_path, "modular_mine.py", MINE)


def test_the_command_writes_the_file_beside_and_says_so(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["modular", str(mine)]) == 0
    path = mine.with_name("modeling_mine.py")
    assert capsys.readouterr().out.strip() == str(path)
    text = path.read_text()
    assert "modular_mine.py by `omniform modular modular_mine.py`" in text.splitlines()[0]
    assert "class MineMLP(nn.Module)" in text and "TinyMLP" not in text
    stamp = path.stat().st_mtime_ns
    assert main(["modular", str(mine)]) == 0 and path.stat().st_mtime_ns == stamp


def test_check_says_what_drifted(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goal = mine.with_name("other.py")
    assert main(["modular", str(mine), "--to", str(goal)]) == 0
    capsys.readouterr()
    assert main(["modular", str(mine), "--to", str(goal), "--check"]) == 0
    assert capsys.readouterr().out == ""
    edited = goal.read_text().replace("bias=bias", "bias=False", 1)
    goal.write_text(edited)
    with pytest.raises(SystemExit) as ended:
        main(["modular", str(mine), "--to", str(goal), "--check"])
    assert ended.value.code == 1
    shown, summary = capsys.readouterr()
    assert summary.count("\n") == 1 and "other.py has drifted: MineMLP.__init__. Run `omniform modular " in summary
    assert "-        self.up = nn.Linear(config.hidden_size, config.inner_size, bias=False)" in shown
    assert "+        self.up = nn.Linear(config.hidden_size, config.inner_size, bias=bias)" in shown
    assert goal.read_text() == edited
    # The source drifts too.
    goal.write_text("")
    with pytest.raises(SystemExit):
        main(["modular", str(mine), "--to", str(goal), "--check"])


def test_a_file_that_is_not_there_has_drifted(mine: Path) -> None:
    found = convert_modular(mine, check=True)
    assert found.drift and not found.path.exists()


def test_the_result_is_the_same_every_time_and_everywhere(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = convert_modular(mine).text
    other = tmp_path / "elsewhere"
    write(other, "modeling_tiny.py", TINY)
    second = convert_modular(write(other, "modular_mine.py", MINE)).text
    monkeypatch.chdir(other)
    assert first == second == convert_modular("modular_mine.py").text


def test_without_ruff_the_same_code_is_no_drift(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formatted = convert_modular(mine)
    monkeypatch.setattr(writer, "ruff", lambda: None)
    monkeypatch.setattr(check, "ruff", lambda: None)
    plain = convert_modular(mine, check=True)
    assert plain.drift == ""
    formatted.path.write_text(plain.text)
    assert convert_modular(mine, check=True).drift == ""
    formatted.path.write_text(plain.text.replace("-hidden", "hidden").replace("wider", "narrower"))
    assert convert_modular(mine, check=True).drift


def test_a_name_is_given(mine: Path) -> None:
    found = convert_modular(mine, name="yours")
    assert found.path.name == "modeling_yours.py" and "--name yours" in found.text.splitlines()[0]


BAD: dict[str, tuple[str, type[OmniformError], str]] = {
    "module": ("from modeling_nowhere import A\nclass MineA(A):\n    pass\n", InputError, "modeling_nowhere"),
    "relative": ("from .nowhere import A\nclass MineA(A):\n    pass\n", InputError, ".nowhere"),
    "family": ("from ..nofamily.modeling_nofamily import A\nclass MineA(A):\n    pass\n", InputError, "nofamily"),
    "package": ("from no_such_package import A\nclass MineA(A):\n    pass\n", InputError, "no_such_package"),
    "class": ("from modeling_tiny import TinyMPL\nclass MineA(TinyMPL):\n    pass\n", UnknownNameError, "'TinyMLP'"),
    "undefined": ("class MineA(TinyMLP):\n    pass\n", UnknownNameError, "TinyMLP"),
    "circle": ("class A(B):\n    pass\nclass B(A):\n    pass\n", InputError, "circle"),
    "itself": ("class A(A):\n    pass\n", InputError, "circle"),
    "syntax": ("class A(:\n    pass\n", InputError, "modular_bad.py, line 1"),
    "twice": (
        "import modeling_tiny as a\nimport modeling_twin as b\nclass MineMLP(a.TinyMLP, b.TinyMLP):\n    pass\n",
        InputError, "same name",
    ),
    "shadowed": (
        "from modeling_tiny import TinyMLP\nfrom modeling_twin import TinyMLP\nclass MineMLP(TinyMLP):\n    pass\n",
        InputError, "TinyMLP",
    ),
    "star": ("import torch\nfrom modeling_tiny import *\nclass MineMLP(TinyMLP):\n    pass\n", InputError, "line 2"),
    "line": ("import os\nfrom modeling_tiny import TinyMPL\nclass A(TinyMPL):\n    pass\n", UnknownNameError, "line 2"),
    "chain": ("import modeling_tiny as t\nclass A(t.TinyMPL):\n    pass\n", UnknownNameError, "'TinyMLP'"),
    "like": (
        "from ..lama.modeling_llama import LlamaMLP\nclass A(LlamaMLP):\n    pass\n", InputError,
        "Did you mean transformers.models.llama.modeling_llama?",
    ),
    "order": (
        "from modeling_tiny import TinyBase, TinyModel\nclass A(TinyBase, TinyModel):\n    pass\n", InputError,
        "Write TinyModel first",
    ),
    "inner": (
        "from modeling_tiny import TinyMLP\nclass MineMLP(TinyMLP):\n    def forward(self, x):\n"
        "        def inner(y):\n            return super().forward(y)\n        return inner(x)\n",
        InputError, "inner function",
    ),
    "missing": (
        "from modeling_tiny import TinyMixer\nclass MineMixer(TinyMixer):\n    def __init__(self, config):\n"
        "        super().__init__(config)\n", InputError, "'index'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_converted_is_refused_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, kind, said = BAD[name]
    write(tmp_path, "modeling_tiny.py", TINY)
    write(tmp_path, "modeling_twin.py", TINY)
    path = tmp_path / "modular_bad.py"
    path.write_text(text)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(kind) as refused:
        convert_modular(path)
    assert said in str(refused.value) and "modular_bad.py" in str(refused.value)
    assert main(["modular", str(path)]) == 2
    assert "omniform: error:" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_files_that_draw_from_each_other_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path, "modular_one.py", "from modular_two import TwoA\nclass OneA(TwoA):\n    pass\n")
    write(tmp_path, "modular_two.py", "from modular_one import OneA\nclass TwoA(OneA):\n    pass\n")
    with pytest.raises(InputError, match=r"circle|in turn"):
        convert_modular(one)
    plain = write(tmp_path, "modular_three.py", "from helper import A\nclass ThreeA(A):\n    pass\n")
    write(tmp_path, "helper.py", "from modular_three import ThreeA\nclass A(ThreeA):\n    pass\n")
    with pytest.raises(InputError, match="in turn"):
        convert_modular(plain)


def test_what_is_no_modular_file_is_refused_by_its_name(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mine.parent
    before = sorted(os.listdir(folder))
    for given in ([str(folder)], ["."], [str(folder / "modeling_tiny.py")], [str(mine), "--flatten", "nowhere_at_all"]):
        assert main(["modular", *given]) == 2
        said = capsys.readouterr().err
        assert said.startswith("omniform: error: ") and said.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


def test_a_file_that_begins_with_a_mark_of_its_bytes_order_is_read(mine: Path) -> None:
    plain = convert_modular(mine, check=True).text
    mine.write_text("\ufeff" + mine.read_text("utf-8"), "utf-8")
    assert convert_modular(mine, check=True).text == plain


def test_files_that_cannot_be_read_or_written(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(RepoError, match="cannot be read"):
        convert_modular(tmp_path / "modular_none.py")
    with pytest.raises(RepoError, match="cannot be written"):
        convert_modular(mine, tmp_path / "no" / "such" / "folder.py")
    folder = tmp_path / "modeling_mine.py"
    folder.mkdir()
    with pytest.raises(RepoError):
        convert_modular(mine)
    assert not [each for each in tmp_path.iterdir() if each.suffix == ".part"]
    damaged = tmp_path / "modular_damaged.py"
    damaged.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        convert_modular(damaged)


def test_a_source_is_never_overwritten(mine: Path, tmp_path: Path) -> None:
    before = mine.read_text()
    with pytest.raises(InputError, match="modular file's place"):
        convert_modular(mine, mine)
    path = write(tmp_path, "modular_tiny.py", "from modeling_tiny import TinyMLP\nclass WideMLP(TinyMLP):\n    pass\n")
    source = (tmp_path / "modeling_tiny.py").read_text()
    with pytest.raises(InputError, match="which it is made of"):
        convert_modular(path)
    assert mine.read_text() == before and (tmp_path / "modeling_tiny.py").read_text() == source
    with pytest.raises(InputError, match="no model's name"):
        convert_modular(mine, name="not-a-name")


def test_a_file_without_classes_is_a_file_without_classes(tmp_path: Path) -> None:
    text = convert_modular(write(tmp_path, "modular_none.py", "# Nothing yet.\n")).text
    assert [line for line in text.splitlines() if line and not line.startswith("#")] == [] and "Nothing yet" in text


def test_nothing_of_the_files_is_run(mine: Path, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    mine.write_text(trap + MINE)
    write(tmp_path, "modeling_tiny.py", TINY)
    (tmp_path / "modeling_tiny.py").write_text(trap + (tmp_path / "modeling_tiny.py").read_text())
    assert "MineMLP" in convert_modular(mine).text
    assert not (tmp_path / "ran").exists()
    assert "modeling_tiny" not in sys.modules


def test_a_machine_without_transformers_or_libcst_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "modular_mine.py", "from transformers.models.llama.modeling_llama import LlamaMLP\n"
                 "class MineMLP(LlamaMLP):\n    pass\n")  # fmt: skip
    from omniform.export.modular import places

    monkeypatch.setattr(places, "installed", lambda dotted: places.Place(dotted, None, there=False))
    with pytest.raises(DependencyError, match="transformers is not installed"):
        convert_modular(path)
    monkeypatch.setitem(sys.modules, "libcst", None)
    for each in [name for name in sys.modules if name.startswith("omniform.export.modular.")]:
        monkeypatch.delitem(sys.modules, each)
    with pytest.raises(DependencyError, match="libcst"):
        convert_modular(path)
    assert convert is not None
