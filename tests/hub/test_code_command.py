"""``omniform trust``: shows the code of a checkpoint, and records whether it may run."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from code_folders import FILES, home, mine, put  # noqa: F401

from omniform import AutoConfig
from omniform.cli.main import main
from omniform.core.errors import TrustError
from omniform.hub.code import trust

pytestmark = pytest.mark.usefixtures("home")


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_shown_asked_and_recorded(tmp_path, monkeypatch, capsys, caplog) -> None:
    folder = mine(tmp_path / "model")
    for no in ("n\n", "", "maybe\n"):
        answer(monkeypatch, no)
        assert main(["trust", str(folder)]) == 2
        said = capsys.readouterr()
        assert "not accepted, and nothing is recorded" in said.err and not trust.store().exists()
    assert all(name in said.out for name in FILES) and "sha256" in said.out and "imports: omniform, torch" in said.out
    assert "+class MineModel(PreTrainedModel):" in said.out  # the code itself is there to read
    answer(monkeypatch, "y\n")
    assert main(["trust", str(folder)]) == 0
    assert "Recorded in" in capsys.readouterr().out
    caplog.set_level(logging.WARNING, "omniform")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert not caplog.records  # known by now, so it is not shown again
    assert main(["trust", str(folder)]) == 0 and "accepted before" in capsys.readouterr().out


def test_what_has_changed(tmp_path, capsys) -> None:
    folder = mine(tmp_path / "model")
    assert main(["trust", "--yes", str(folder)]) == 0
    put(folder, {"sub/more.py": "OUT = 4\n"})
    with pytest.raises(TrustError, match="omniform trust"):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    capsys.readouterr()
    assert main(["trust", str(folder), "--yes"]) == 0
    said = capsys.readouterr().out
    assert "--- accepted/sub/more.py" in said and "-OUT = 3" in said and "+OUT = 4" in said
    assert "+class MineModel" not in said
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    put(folder, {"sub/more.py": "OUT = 3\n"})
    AutoConfig.from_pretrained(folder, trust_remote_code=True)  # the version before was accepted as well
    assert len(trust.accepted(str(folder.resolve()))) == 2


def test_listed_and_forgotten(tmp_path, capsys, monkeypatch) -> None:
    folder = mine(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert main(["trust", "--yes", "model"]) == 0
    capsys.readouterr()
    assert main(["trust", "--list"]) == 0
    said = capsys.readouterr().out
    assert str(folder.resolve()) in said and "4 files" in said and "digest" in said
    assert main(["trust", "--forget", "model"]) == 0 and not trust.everything()
    assert main(["trust", "--forget", "model"]) == 2 and "nothing was recorded" in capsys.readouterr().err
    assert main(["trust", "--list"]) == 0
    for wrong in (["trust"], ["trust", "--list", "model"], ["trust", str(tmp_path / "none")]):
        assert main(wrong) == 2


def test_a_folder_without_code(tmp_path, capsys) -> None:
    put(tmp_path, {"config.json": "{}"})
    assert main(["trust", str(tmp_path)]) == 0 and "brings no code" in capsys.readouterr().out
    assert not trust.store().exists()


def test_code_that_cannot_run_is_shown_all_the_same(tmp_path: Path, capsys) -> None:
    folder = mine(tmp_path / "model", **{"sub/more.py": "OUT = (\n"})
    assert main(["trust", "--yes", str(folder)]) == 0
    assert "this is not Python" in capsys.readouterr().out
