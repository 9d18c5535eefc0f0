"""Parameters that lie in parts over many processes: DeepSpeed's ZeRO-3, asked for before a model is loaded.

Whoever configures it (training arguments, ``HfDeepSpeedConfig``, accelerate) is found through a weak reference, as in
the ecosystem: it ends with the object. ``from_pretrained`` then gives each process its part of every parameter. Until
that moment the weights are mapped from the files, whose pages the processes of one machine share.
"""

from __future__ import annotations

import importlib.util
import sys
import weakref
from importlib.metadata import PackageNotFoundError, metadata
from typing import Protocol, cast

from torch import nn

from omniform.core.errors import DependencyError
from omniform.weights.spread import widen_scalars

__all__ = [
    "deepspeed_config",
    "is_deepspeed_available",
    "is_deepspeed_zero3_enabled",
    "set_hf_deepspeed_config",
    "unset_hf_deepspeed_config",
]


class KnowsZero(Protocol):
    """A DeepSpeed configuration that can be asked for its stage."""

    @property
    def config(self) -> dict[str, object]: ...

    def is_zero3(self) -> bool:
        """Whether parameters are partitioned."""
        ...


_known: weakref.ref[KnowsZero] | None = None


def set_hf_deepspeed_config(hf_deepspeed_config_obj: KnowsZero) -> None:
    """Note a configuration; it counts as long as the object lives."""
    global _known
    _known = weakref.ref(hf_deepspeed_config_obj)


def unset_hf_deepspeed_config() -> None:
    """Forget the configuration that was noted."""
    global _known
    _known = None


def _current() -> KnowsZero | None:
    noted = _known() if _known is not None else None
    return noted if noted is not None else _of_accelerate()


def _of_accelerate() -> KnowsZero | None:
    """What ``accelerate launch`` or an ``Accelerator`` set up, if accelerate was imported at all."""
    module = sys.modules.get("accelerate.state")
    if module is None:
        return None
    shared = vars(module)["AcceleratorState"]._shared_state
    plugins = shared.get("deepspeed_plugins")
    chosen = [p for p in plugins.values() if p.selected] if isinstance(plugins, dict) else [plugins]
    active = next((p for p in chosen if p is not None), None)
    # Its context manager turns the partitioning off for models that are to be whole.
    if active is None or not active.zero3_init_flag:
        return None
    return cast(KnowsZero, active.hf_ds_config)


def is_deepspeed_available() -> bool:
    """Whether the package deepspeed is installed, and is no folder of that name."""
    if importlib.util.find_spec("deepspeed") is None:
        return False
    try:
        metadata("deepspeed")
    except PackageNotFoundError:
        return False
    return True


def is_deepspeed_zero3_enabled() -> bool:
    """Whether models are to be loaded in parts (ZeRO-3)."""
    current = _current()
    return current is not None and current.is_zero3()


def deepspeed_config() -> dict[str, object] | None:
    """DeepSpeed's settings, or None where nobody has configured it."""
    current = _current()
    return None if current is None else current.config


def partition(model: nn.Module) -> None:
    """Leave each process its part of every parameter, where ZeRO-3 is configured; elsewhere nothing happens.

    Raises:
        DependencyError: it is configured and deepspeed is not installed.
    """
    current = _current()
    if current is None or not current.is_zero3():
        return
    if not is_deepspeed_available():
        raise DependencyError(
            "ZeRO-3 is configured and deepspeed is not installed", remedy="pip install deepspeed installs it."
        )
    import deepspeed

    widen_scalars(model)
    deepspeed.zero.Init(module=model, config_dict_or_path=_counted(current.config))


def _counted(config: dict[str, object]) -> dict[str, object]:
    """The same settings without ``"auto"`` in sizes of batches, which are not known yet and do not matter here."""
    settings = dict(config)
    for name in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        if settings.get(name, "auto") == "auto":
            settings[name] = 1
    settings.pop("train_batch_size", None)
    return _without_auto(settings)


def _without_auto(settings: dict[str, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, value in settings.items():
        if value != "auto" and name not in ("optimizer", "scheduler"):
            plain[name] = _without_auto(value) if isinstance(value, dict) else value
    return plain
