"""Progress bars as scripts of the ecosystem draw them: ``logging.tqdm``, which can be silenced for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Self

Hook = Callable[[Callable[..., object], tuple[object, ...], dict[str, object]], object]
"""Makes a bar itself, given what would make it and its arguments."""


class EmptyTqdm:
    """Looks like a bar, and draws nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        given = args[0] if args else kwargs.get("iterable")
        self._iterator: Iterable[object] = given if isinstance(given, Iterable) else ()

    def __iter__(self) -> Iterator[object]:
        return iter(self._iterator)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *trouble: object) -> None:
        return


class _Bars:
    """``tqdm`` of the package tqdm, an :class:`EmptyTqdm` while bars are silenced, or what a hook makes."""

    hook: Hook | None = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        import tqdm.auto as drawn

        made: Callable[..., object] = drawn.tqdm if is_progress_bar_enabled() else EmptyTqdm
        return made(*args, **kwargs) if self.hook is None else self.hook(made, args, kwargs)

    def set_lock(self, lock: object) -> None:
        """The lock that bars of several threads share."""
        import tqdm.auto as drawn

        drawn.tqdm.set_lock(lock)

    def get_lock(self) -> object:
        """The lock that bars of several threads share."""
        import tqdm.auto as drawn

        return drawn.tqdm.get_lock()


tqdm = _Bars()


def is_progress_bar_enabled() -> bool:
    """Whether bars are drawn."""
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

    return not are_progress_bars_disabled()


def enable_progress_bar() -> None:
    """Draw bars, of downloads too."""
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]

    enable_progress_bars()


def disable_progress_bar() -> None:
    """Draw no bars, of downloads neither."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()


def set_tqdm_hook(hook: Hook | None) -> Hook | None:
    """Let a function make every bar from now on; None: no longer. Returns the one before."""
    before, tqdm.hook = tqdm.hook, hook
    return before


__all__ = [
    "EmptyTqdm",
    "disable_progress_bar",
    "enable_progress_bar",
    "is_progress_bar_enabled",
    "set_tqdm_hook",
    "tqdm",
]
