"""What is done: one file per kind, each with its parameters and what of it is measured."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from ..job import RefusedError
from .base import Scenario

MODULES: dict[str, tuple[str, str]] = {
    "nothing": ("nothing", "Nothing"),
    "import": ("fresh", "Import"),
    "load": ("fresh", "Load"),
    "first_answer": ("fresh", "FirstAnswer"),
    "forward": ("forward", "Forward"),
    "prefill": ("writing", "Prefill"),
    "decode": ("writing", "Decode"),
    "generate": ("writing", "Generate"),
    "engine": ("engine", "Engine"),
    "server": ("server", "Server"),
    "pipeline": ("pipelines", "Pipeline"),
    "preprocessing": ("pipelines", "Preprocessing"),
    "train_step": ("training", "TrainStep"),
    "export": ("training", "Export"),
}
"""The module and the class of each kind."""

SHOWN = "omniform_bench"
"""What scenarios of one's own import :mod:`~omniform.bench.scenarios.base` as."""


def scenario_class(kind: str) -> type[Scenario]:
    """A scenario by its kind: a name of :data:`MODULES`, or ``FILE.py:CLASS`` for one of one's own.

    Raises:
        KeyError: there is no such kind.
        RefusedError: the file or the class is not there.
    """
    file, colon, name = kind.rpartition(":")
    if not colon:
        module, name = MODULES[kind]
        found: type[Scenario] = getattr(import_module(f".{module}", __package__), name)
        return found
    path = Path(file).resolve()
    if not path.is_file():
        raise RefusedError(f"there is no file {path} with a scenario")
    # It says `from omniform_bench import Scenario`: in a contender's process this package has another name, and what is
    # called omniform may be a commit without it.
    sys.modules[SHOWN] = sys.modules[Scenario.__module__]
    title = f"own_scenario_{path.stem}"
    spec = spec_from_file_location(title, path)
    if spec is None or spec.loader is None:
        raise RefusedError(f"{path} is no Python file")
    own = sys.modules[title] = module_from_spec(spec)
    spec.loader.exec_module(own)
    if not hasattr(own, name):
        raise RefusedError(f"{path} has no class {name}")
    made: type[Scenario] = getattr(own, name)
    return made
