"""Models and steps that a checkpoint brings itself, as the steps here want them; their code runs if it is trusted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import CodeError, OmniformError, UnknownNameError
from omniform.core.own_config import PreTrainedConfig
from omniform.embeddings.features import Features
from omniform.embeddings.parts import Part, PartFiles
from omniform.hub.code.mode import mode_of, untrusted
from omniform.hub.files import Source


def config_of(config: object) -> ModelConfig:
    """A config, of whatever library, as omniform reads one."""
    if isinstance(config, ModelConfig):
        return config
    return PreTrainedConfig.from_dict(cast("Callable[[], dict[str, object]]", _method(config, "to_dict"))())


def _method(of: object, name: str) -> Callable[..., object]:
    from omniform.hub.code.foreign import method

    return partial(method(type(of), name), of)


class TheirModel(nn.Module):
    """A model of another library, called as omniform's are.

    Args:
        inner: the model.

    Attributes:
        config: its config, as omniform reads one.
    """

    main_input = "input_ids"

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config = config_of(inner.config)
        taken = inspect.signature(inner.forward).parameters.values()
        self._takes = frozenset(p.name for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return next(self.inner.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it is computed with."""
        return next(self.inner.parameters()).dtype

    def accepts(self) -> frozenset[str]:
        """The arguments that its forward names."""
        return self._takes

    def forward(self, **inputs: object) -> Mapping[str, Tensor]:
        """Its outputs by name, of those inputs that it knows."""
        output = self.inner(**{name: value for name, value in inputs.items() if name in self._takes})
        if isinstance(output, Mapping):
            return output
        first = output[0] if isinstance(output, (tuple, list)) else output
        return {"last_hidden_state": first, "logits": first}

    def save_pretrained(self, folder: Path) -> None:
        """As its own library saves it."""
        _method(self.inner, "save_pretrained")(folder)


def as_ours(model: object) -> Model:
    """A model that omniform can call, whosever it is."""
    return model if isinstance(model, Model) else cast(Model, TheirModel(cast(nn.Module, model)))


class Brought(Part):
    """A step of the checkpoint's own class: any module with ``load(folder)`` and ``forward(features)``.

    Args:
        inner: the step.
    """

    name = "Brought"

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: Features) -> Features:
        return {**features, **cast(Features, self.inner(dict(features)))}

    def save(self, folder: Path) -> None:
        if any("save" in vars(base) for base in type(self.inner).__mro__):
            _method(self.inner, "save")(str(folder))
        else:
            super().save(folder)

    def save_code(self, folder: Path) -> None:
        """Write the code of the step's class into a checkpoint's folder."""
        from omniform.hub.code.saving import code_of

        found = code_of(type(self.inner))
        for path, text in ({} if found is None else found[1]).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(text)


def step_of(name: str, source: Source, trust: object, where: str) -> type:
    """The class of a step that a checkpoint brings.

    Raises:
        UnknownNameError: this names no class.
        TrustError: the user has not said that its code may run.
        CodeError, RepoError, DependencyError: it cannot.
    """
    from omniform.hub.code.reference import Reference

    try:
        asked = Reference.parse(name, where)
    except CodeError:
        raise UnknownNameError("this step is not supported", where=where, found=repr(name)) from None
    if mode_of(trust) == "never":
        raise untrusted(source.name, "a step is code that the checkpoint brings", f"{where}: {name!r}")
    from omniform.hub.code.named import loaded

    kind = loaded(asked, source)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise CodeError("this is no step", where=where, expected="a class of modules", found=name)
    return kind


def load_step(kind: type, files: PartFiles) -> Part:
    """A step of the checkpoint's own class, from its folder.

    Raises:
        CodeError: it cannot be loaded.
    """
    from omniform.hub.code.foreign import method

    top = f"{files.folder}/" if files.folder else ""
    names = [name for name in files.source.listing() if name.startswith(top) and (top or "/" not in name)]
    found = {name: path for name in names if (path := files.source.find(name)) is not None}
    root = files.source.folder
    if root is None:  # a snapshot in the Hub's cache
        root = next((path.parents[name.count("/")] for name, path in found.items()), Path())
    load = method(kind, "load")
    takes = inspect.signature(load).parameters.values()
    try:
        if any(p.name == "subfolder" or p.kind is p.VAR_KEYWORD for p in takes):
            made = load(str(root), subfolder=files.folder, local_files_only=True)
        else:
            made = load(str(root / files.folder))
    except OmniformError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise CodeError(
            "the step cannot be loaded", where=f"{files.source.name}: {kind.__name__}", found=words
        ) from error
    return made if isinstance(made, Part) else Brought(cast(nn.Module, made))
