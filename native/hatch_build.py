"""The build hook: compiles the kernels once, when omniform is installed or a wheel is made.

One ``py3-none-<platform>`` wheel holds every variant, since the library is called through ctypes and knows no Python.
Where there is no compiler, or none of the variants compiles, the wheel is pure and torch computes everything.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def builder(root: Path) -> ModuleType:
    """``native/build.py``, which is no part of any package."""
    spec = importlib.util.spec_from_file_location("omniform_native_build", root / "native" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def platform_tag() -> str:
    """The machine that a wheel runs on; what repairs wheels (auditwheel, delocate) writes a wider one."""
    if sys.platform == "darwin":
        # A Python for two kinds of processors still has a compiler that compiles for one of them.
        lowest = os.environ.get("MACOSX_DEPLOYMENT_TARGET") or "11.0"
        major, _, minor = lowest.partition(".")
        return f"macosx_{major}_{minor or 0}_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


class CompileKernels(BuildHookInterface[Any]):
    """Compiles beside the sources, where an editable install reads them, and puts what compiled into a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the files of a wheel are collected; ``version`` is "standard" or "editable"."""
        build = builder(Path(self.root))
        said: dict[str, str | None] = build.build()
        for name, wrong in said.items():
            if wrong is not None:
                self.app.display_warning(f"native kernels: {name} is left out, it does not compile:\n{wrong}")
        made = [build.object_name(name) for name, wrong in said.items() if wrong is None]
        if len(made) < 2:  # nothing but the object that asks the processor
            self.app.display_warning(
                "native kernels: none (no C++ compiler, or not one for this processor); torch computes everything"
            )
            return
        self.app.display_info(f"native kernels: {', '.join(made)}")
        if version == "editable":
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        for name in made:
            build_data["force_include"][str(build.TARGET / name)] = f"omniform/native/lib/{name}"
