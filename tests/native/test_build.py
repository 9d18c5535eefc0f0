"""Compiling the kernels: what changed and nothing else, what fails is left out, and what a wheel is told of them."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"

COMPILER = """#!/bin/sh
# Stands for a compiler: says what it was asked for, does not know bf16, and writes something.
echo "$@" >> {log}
case "$*" in *avx512bf16*|*+bf16*) echo "unknown instructions" >&2; exit 1;; --version) echo {version}; exit;; esac
while [ "$1" != -o ]; do shift; done
echo made > "$2"
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tested_{name}", ROOT / "native" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Compiler:
    """A compiler that fails for one variant, and remembers what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.path, self.log = folder / "cxx", folder / "calls"
        self.update("1")

    def update(self, version: str) -> None:
        self.path.write_text(COMPILER.format(log=self.log, version=version))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if line != "--version"]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("build")
    monkeypatch.setattr(module, "OBJECTS", tmp_path / "objects")
    return module


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler(tmp_path)
    monkeypatch.setenv("CXX", str(made.path))
    return made


def test_a_variant_that_does_not_compile_is_left_out(build: ModuleType, compiler: Compiler, tmp_path: Path) -> None:
    target = tmp_path / "lib"
    target.mkdir()
    stale = target / build.object_name("v4-bf16")
    stale.write_text("of another day")
    said = build.build(target=target, machine="x86_64")
    assert list(said) == ["cpu", "v3", "v3-vnni", "v4", "v4-bf16", "amx"]
    assert {name for name, wrong in said.items() if wrong} == {"v4-bf16", "amx"}
    assert "unknown instructions" in said["v4-bf16"]
    assert sorted(p.name for p in target.iterdir() if p.name != build.STAMP) == sorted(
        build.object_name(name) for name in ("cpu", "v3", "v3-vnni", "v4")
    )


def test_what_is_up_to_date_is_not_compiled_again(
    build: ModuleType, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sources = tmp_path / "lib", [tmp_path / "one.cpp", tmp_path / "two.cpp"]
    for source in sources:
        source.write_text("int one;")
    monkeypatch.setattr(build, "sources", lambda: sources)
    first = build.build(target=target, machine="x86_64")
    compiler.calls()
    assert build.build(target=target, machine="x86_64") == first
    assert compiler.calls() == []
    sources[0].write_text("int another;")
    build.build(target=target, machine="x86_64")
    compiled = [c for c in compiler.calls() if " -c " in c and "avx512bf16" not in c]
    assert len(compiled) == 3 and all("one.cpp" in c for c in compiled)  # of each variant, the file that changed
    (target / build.object_name("v3")).unlink()
    build.build(target=target, machine="x86_64")
    assert (target / build.object_name("v3")).is_file()
    compiler.calls()
    compiler.update("2")
    build.build(target=target, machine="x86_64")
    assert len([c for c in compiler.calls() if " -c " in c and "avx512bf16" not in c]) == 6


@pytest.mark.parametrize("cxx", ("false", "", "there-is-no-such-compiler"))
def test_no_compiler(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cxx: str) -> None:
    monkeypatch.setenv("CXX", cxx)
    assert build.build(target=tmp_path / "lib", machine="x86_64") == {}
    assert not (tmp_path / "lib").exists()


def test_an_unknown_processor(build: ModuleType, compiler: Compiler, tmp_path: Path) -> None:
    assert build.build(target=tmp_path / "lib", machine="riscv64") == {}


def test_all_variants_of_this_machine_compile() -> None:
    build = load("build")
    if build.compiler() is None or not build.variants(os.uname().machine):
        pytest.skip("no compiler, or no kernels for this processor")
    assert {name: wrong for name, wrong in build.build().items() if wrong is not None} == {}


class App:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def display_warning(self, line: str) -> None:
        self.lines.append(line)

    display_info = display_warning


def hooked(said: dict[str, str | None], version: str) -> tuple[dict[str, object], App]:
    pytest.importorskip("hatchling")
    module = load("hatch_build")
    module.builder = lambda root: SimpleNamespace(
        build=lambda: said, object_name="omniform_{}.so".format, TARGET=Path("/lib")
    )
    hook, app = object.__new__(module.CompileKernels), App()
    hook.__dict__.update({"_BuildHookInterface__root": "/", "_BuildHookInterface__app": app})
    data: dict[str, object] = {"force_include": {}}
    hook.initialize(version, data)
    return data, app


@pytest.mark.skipif(not LINUX, reason="another tag")
def test_a_wheel_holds_what_compiled_and_says_what_did_not() -> None:
    data, app = hooked({"cpu": None, "v3": None, "v4": "no such flag"}, "standard")
    assert data["pure_python"] is False
    assert data["tag"] == f"py3-none-linux_{os.uname().machine}"
    assert data["force_include"] == {
        "/lib/omniform_cpu.so": "omniform/native/lib/omniform_cpu.so",
        "/lib/omniform_v3.so": "omniform/native/lib/omniform_v3.so",
    }
    assert any("v4 is left out" in line and "no such flag" in line for line in app.lines)


def test_an_editable_install_reads_the_objects_where_they_are() -> None:
    data, app = hooked({"cpu": None, "v3": None}, "editable")
    assert data == {"force_include": {}}
    assert not any("left out" in line for line in app.lines)


@pytest.mark.parametrize("said", ({}, {"cpu": None, "v3": "wrong"}))
def test_without_kernels_a_wheel_is_pure(said: dict[str, str | None]) -> None:
    data, app = hooked(said, "standard")
    assert data == {"force_include": {}}
    assert any("torch computes everything" in line for line in app.lines)
