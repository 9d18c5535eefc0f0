"""Choosing the attention kernel of a model, or of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from omniform.blocks.kernels import backend_named
from omniform.core.attention_notes import note_attention, noted_attention
from omniform.core.context import Backend
from omniform.core.errors import InputError, brief, nearest

if TYPE_CHECKING:
    from omniform.architectures.model import Model
    from omniform.core.config import ModelConfig

WHERE = "attn_implementation"

Chosen = dict["Model", Backend]


def choose_attention(model: Model, asked: object) -> None:
    """Have a model computed by the kernel of a name, or its parts each by one; nothing changes where one is refused.

    Args:
        asked: a name (see :func:`~omniform.blocks.kernels.backend_named`); or names by the keys of the configs within
            (``{"text_config": "flex_attention", "vision_config": "sdpa"}``), ``""`` for what is no part; a value may
            be such a mapping itself.

    Raises:
        InputError: there is no such kernel, no such part, or no device that it runs on.
        DependencyError: a kernel's package is not installed.
    """
    for part, backend in _chosen(model, asked).items():
        part.attn_backend = backend
    if model.bound:
        note_attention(model.config, _named(asked))


def follow_config(model: Model) -> None:
    """Compute a new model as its config's notes ask for."""
    asked = noted_attention(model.config)
    if asked is not None:
        choose_attention(model, asked)


def _named(asked: object) -> object:
    """What is asked for, in our own names."""
    return {key: _named(one) for key, one in asked.items()} if isinstance(asked, Mapping) else backend_named(asked)


def _chosen(model: Model, asked: object) -> Chosen:
    if not isinstance(asked, Mapping):
        backend = backend_named(asked)
        return dict.fromkeys(_models(model), backend)
    if not model.bound:
        raise InputError("this part has no configs within", where=WHERE, expected="a name", found=brief(asked))
    config = model.config
    strange = [key for key in asked if key not in ("", *config.parts)]
    if strange:
        raise InputError(
            "the config has no such part",
            where=WHERE,
            expected=f"keys among {', '.join(config.parts)}" if config.parts else "a name: the config has no parts",
            found=brief(strange[0]),
            remedy=nearest(str(strange[0]), config.parts) if config.parts else None,
        )
    homes = {key: _home(model, key, part) for key, part in config.parts.items()}
    chosen: Chosen = {}
    if "" in asked:
        within = {inner for home in homes.values() for part in home for inner in _models(part)}
        chosen = dict.fromkeys([m for m in _models(model) if m not in within], backend_named(asked[""]))
    for key in config.parts:
        if key in asked:
            for part in homes[key]:
                chosen |= _chosen(part, asked[key])
    return chosen


def _models(model: Model) -> list[Model]:
    from omniform.architectures.model import Model

    return [module for module in model.modules() if isinstance(module, Model)]


def _home(model: Model, key: str, part: ModelConfig) -> list[Model]:
    """The models within that a part of a config is of: bound to it, or else called as it is; the outermost ones."""
    from omniform.architectures.model import Model

    inner = {path: m for path, m in model.named_modules() if isinstance(m, Model) and path}
    found = {path: m for path, m in inner.items() if m.bound and m.config is part}
    if not found:
        stem = key.removesuffix("_config")
        found = {path: m for path, m in inner.items() if path.rpartition(".")[2].startswith(stem)}
    return [m for path, m in found.items() if not any(path.startswith(f"{other}.") for other in found)]
