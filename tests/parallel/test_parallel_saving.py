"""What several processes save of a model that they hold together is what it was loaded from, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from parallel_families import all_of, each, loaded, made

from omniform.core.errors import InputError, RepoError

CASES = [
    (2, {"tp_plan": "auto"}, [
        "llama", "llama tied", "phi3", "gpt2", "bloom", "mixtral", "deepseek_v3", "gpt_oss", "t5",
    ]),
    (2, {"pp_plan": "auto"}, ["llama", "llama tied", "phi3", "qwen3_moe", "bart"]),
    (4, {"tp_plan": "auto", "pp_plan": "auto", "tp_size": 2}, ["llama tied", "mixtral"]),
]  # fmt: skip


def saved(rank: int, world: int, checkpoints: Path, run: Path, names: list[str], given: dict[str, object]) -> None:
    for name in names:
        model = loaded(made(name, checkpoints), **given)
        model.save_pretrained(run / name / "whole", is_main_process=rank == 0)
        model.save_pretrained(run / name / "sharded", max_shard_size="20KB")
    model = loaded(made(names[0], checkpoints), **given, dtype="int8")
    model.save_pretrained(run / names[0] / "int8")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saving")


@pytest.mark.parametrize(("world", "given", "names"), CASES, ids=["tp", "pp", "both"])
def test_saved_is_loaded(
    checkpoints: Path, tmp_path: Path, world: int, given: dict[str, object], names: list[str]
) -> None:
    alone = {name: loaded(made(name, checkpoints)) for name in names}
    all_of(saved, world, tmp_path / "run", checkpoints, tmp_path, names, given)
    for name, model in alone.items():
        model.save_pretrained(tmp_path / name / "alone", max_shard_size="20KB")
        first = made(name, checkpoints).folder / "model.safetensors"
        assert (tmp_path / name / "whole" / "model.safetensors").read_bytes() == first.read_bytes(), name
        mine, theirs = files(tmp_path / name / "alone"), files(tmp_path / name / "sharded")
        assert len(mine) > 4 and mine.keys() == theirs.keys(), name
        assert not [file for file in mine if mine[file] != theirs[file]], name
    packed = tmp_path / names[0] / "int8" / "model.safetensors"
    assert packed.read_bytes() == (tmp_path / names[0] / "whole" / "model.safetensors").read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def in_vain(rank: int, world: int, checkpoints: Path, folder: Path) -> None:
    model = loaded(made("llama", checkpoints), tp_plan="auto")
    for given in ({"state_dict": model.state_dict()}, {"save_function": print}):
        with pytest.raises(InputError, match="saved as it is"):
            model.save_pretrained(folder / "saved", **given)
    model.save_pretrained(folder / "file")


def test_all_processes_hear_that_it_cannot_be_saved(checkpoints: Path, tmp_path: Path) -> None:
    made("llama", checkpoints)
    (tmp_path / "file").write_text("no folder")
    for error in each(in_vain, 2, tmp_path / "run", checkpoints, tmp_path, timeout=60):
        with pytest.raises(RepoError, match="this is a file, not a folder"):
            raise error  # type: ignore[misc]
