"""Classes of the user's own: which of them an Auto class loads, found by the class of a config or by name.

Whatever Auto class is asked, the order is the same: what the user registered (here), with ``trust_remote_code`` the
class that the checkpoint's ``auto_map`` names, then omniform's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from omniform.architectures.named import PreTrainedModel
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, brief
from omniform.models import registry


@dataclass(slots=True)
class Registered:
    """What the user registered with one Auto class.

    Attributes:
        by_config: classes by the class of the configs that they belong to, the preferred one first.
        by_name: the same by their names, as files write them.
    """

    by_config: dict[type[ModelConfig], tuple[type, ...]] = field(default_factory=dict)
    by_name: dict[str, type] = field(default_factory=dict)


_REGISTERED: dict[str, Registered] = {}


def register(
    auto: str, config: object, kinds: object, base: type | tuple[type, ...], *, exist_ok: bool = False
) -> None:
    """Have an Auto class load what belongs to configs of a class as a class of the user's own.

    Args:
        auto: the Auto class's name.
        config: a class of configs; None for a class that is found by its name alone.
        kinds: the class, or several of which the first is preferred; None among them counts as nothing.
        base: what they must inherit from.
        exist_ok: put them in the place of what was registered before.

    Raises:
        InputError: these are no such classes.
        ConfigError: there is a class for these configs, or another one of the same name.
    """
    given = tuple(kind for kind in (kinds if isinstance(kinds, tuple) else (kinds,)) if kind is not None)
    bases = base if isinstance(base, tuple) else (base,)
    wanted = " or ".join(one.__name__ for one in bases)
    where = f"{auto}.register"
    if config is not None and not (isinstance(config, type) and issubclass(config, ModelConfig)):
        raise InputError(
            "not a class of configs", where=where, expected="a subclass of PreTrainedConfig", found=_said(config)
        )
    found = tuple(kind for kind in given if isinstance(kind, type) and issubclass(kind, bases))
    if not found or len(found) < len(given):
        wrong = next((kind for kind in given if kind not in found), kinds)
        raise InputError(
            "not a class that can be registered here",
            where=where,
            expected=f"a subclass of {wanted}",
            found=_said(wrong),
        )
    mine = _REGISTERED.setdefault(auto, Registered())
    if not exist_ok:
        if config is not None and not registry.is_again(mine.by_config.get(config, found)[0], found[0]):
            raise ConfigError(
                "there is a class for these configs", where=where, found=_said(mine.by_config[config][0]), remedy=_OVER
            )
        taken = next(
            (kind for kind in found if not registry.is_again(mine.by_name.get(kind.__name__, kind), kind)), None
        )
        if taken is not None:
            raise ConfigError("the name is taken", where=where, found=_said(mine.by_name[taken.__name__]), remedy=_OVER)
    if config is not None:
        mine.by_config[config] = found
    mine.by_name.update((kind.__name__, kind) for kind in found)


_OVER = "Pass exist_ok=True to put the new one in its place."


def any_for(auto: str) -> bool:
    """Whether anything is registered with an Auto class."""
    return auto in _REGISTERED


def registered(
    auto: str,
    *,
    config: type[ModelConfig] | None = None,
    model_type: object = None,
    names: Iterable[object] = (),
) -> type | None:
    """The class that the user registered with an Auto class for a checkpoint; None where there is none.

    Args:
        auto: the Auto class's name.
        config: the class of the checkpoint's config, where it was read.
        model_type: the ``model_type`` in its ``config.json``, where it was not.
        names: class names in its files; the first that is registered counts, before its config does.
    """
    mine = _REGISTERED.get(auto)
    if mine is None:
        return None
    named = next((mine.by_name[name] for name in names if isinstance(name, str) and name in mine.by_name), None)
    if named is not None:
        return named
    if config is None and isinstance(model_type, str) and mine.by_config:
        config = registry.config_class(model_type)
    return None if config is None else mine.by_config.get(config, (None,))[0]


def configs_of(auto: str) -> tuple[type[ModelConfig], ...]:
    """The classes of configs that something is registered for with an Auto class."""
    return tuple(_REGISTERED[auto].by_config) if auto in _REGISTERED else ()


def autos_of(kind: type) -> list[str]:
    """The Auto classes that a class of the user's own is registered with."""
    return [auto for auto, mine in _REGISTERED.items() if mine.by_name.get(kind.__name__) is kind]


def class_called(names: Iterable[str], config: type[ModelConfig]) -> type[PreTrainedModel] | None:
    """The registered model that a checkpoint was saved as, whichever Auto class it is registered with.

    Args:
        names: the ``architectures`` of the checkpoint's config; without any, what is registered for its class counts.
    """
    wanted = tuple(names)
    for mine in _REGISTERED.values():
        for kind in mine.by_config.get(config, ()):
            if issubclass(kind, PreTrainedModel) and (not wanted or kind.__name__ in wanted):
                return kind
    return None


def _said(value: object) -> str:
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else brief(value)
