"""The names of files under ``tests``: pytest puts every folder of tests on the path and imports by basename."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent


def clashes(folder: Path) -> dict[str, list[str]]:
    """The modules of a folder that go by one name, by that name; a package's own parts go by the package's."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        if path.name != "conftest.py" and not (path.parent / "__init__.py").exists():
            found[path.stem].append(str(path.relative_to(folder)))
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def test_no_two_modules_go_by_one_name() -> None:
    """Else whichever is imported first is taken for both, and the other's tests are not even collected."""
    assert clashes(HERE) == {}


def test_clashes_are_seen(tmp_path: Path) -> None:
    for path in (
        "a/heard.py",
        "b/heard.py",
        "a/conftest.py",
        "conftest.py",
        "c/other.py",
        "p/__init__.py",
        "p/other.py",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert clashes(tmp_path) == {"heard": ["a/heard.py", "b/heard.py"]}
