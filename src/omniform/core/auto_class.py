"""``register_for_auto_class``: classes of the user's own whose code is saved with what they made."""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

from omniform.core.errors import InputError, brief, nearest


class AutoNamed:
    """What an Auto class can load, and can find the code of beside a checkpoint."""

    _auto_class: ClassVar[str | None] = None
    """The Auto class that checkpoints name this class for; None where its code is not saved with them."""

    _usual_auto_class: ClassVar[str] = ""

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type | None = None) -> None:
        """Have this class's code saved with what it makes, and named there for an Auto class.

        ``save_pretrained`` then copies the file that the class stands in, and the files that it imports from beside it,
        and notes the class in ``auto_map``; whoever trusts the folder loads it by ``trust_remote_code=True``.

        Args:
            auto_class: the Auto class, or its name; by default the one for such classes (``AutoModel``).

        Raises:
            InputError: there is no such Auto class.
        """
        name = auto_class.__name__ if isinstance(auto_class, type) else auto_class
        name = cls._usual_auto_class if name is None else name
        known = [one for one in vars(import_module("omniform"))["__all__"] if one.startswith("Auto")]
        if not isinstance(name, str) or name not in known:
            remedy = nearest(name, known) if isinstance(name, str) else None
            raise InputError("there is no such Auto class", where="auto_class", found=brief(auto_class), remedy=remedy)
        cls._auto_class = name

    @classmethod
    def is_remote_code(cls) -> bool:
        """Whether this class's code is saved with what it makes, or came with it."""
        return cls._auto_class is not None
