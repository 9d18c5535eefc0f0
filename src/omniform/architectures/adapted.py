"""Models that PEFT puts adapters into: it finds their layers, and the places of its tensors, by the Hub's names.

PEFT looks for the layers that it is to adapt among the names of :meth:`~torch.nn.Module.named_modules`, by their ends,
and puts a module with a child ``base_layer`` in the place of each. What it adds beside that child is the adapter. A
file of adapters spells the layers as the model does that it was trained on; PEFT asks the model it loads them into how
its paths are to be renamed (``_checkpoint_conversion_mapping``), and hands them to ``load_state_dict``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import SupportsIndex

from omniform.core.upstairs import upstairs
from omniform.weights.adapters import BASE, heads
from omniform.weights.keymap import KeyMap, KeyTable
from omniform.weights.links import Shape

_MET: set[str] = set()


def meet_peft() -> None:
    """Have PEFT know our models, once it is there; see :mod:`omniform.hub.peft_names`."""
    if not _MET and "peft.peft_model" in sys.modules:
        _MET.add("peft")
        upstairs("hub.peft_names:meet")()


class ModuleName(str):
    """Our path of a module, which ends with what checkpoints call the module as well.

    ``name.endswith(".query")`` is true of BERT's ``...self_attn.q_proj``, and ``name.endswith(".c_attn")`` of each of
    the three that GPT-2's checkpoints keep in one. In all else it is the path, a plain text.

    Args:
        path: ours.
        others: the checkpoint's, asked for when they are needed.
    """

    _others: Callable[[], Sequence[str]]

    def __new__(cls, path: str, others: Callable[[], Sequence[str]]) -> ModuleName:
        made = super().__new__(cls, path)
        made._others = others
        return made

    def endswith(self, suffix: str | tuple[str, ...], *within: SupportsIndex | None) -> bool:
        """Whether our path, or (asked of the whole) one of the checkpoint's, ends like this."""
        if str(self).endswith(suffix, *within):
            return True
        return not within and any(f".{other}".endswith(suffix) for other in self._others())

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def within_adapters(keys: KeyMap, shapes: Mapping[str, Shape], ties: Mapping[str, str]) -> KeyTable:
    """The table for a model with adapters, whose layers' tensors live where they did before.

    Args:
        shapes: by our paths, those of an adapted layer under its ``base_layer``.
        ties: likewise.
    """
    plain = {path: path.replace(f".{BASE}.", ".") for path in (*shapes, *ties)}
    table = keys.expand(
        {plain[path]: shape for path, shape in shapes.items()},
        {plain[path]: owner.replace(f".{BASE}.", ".") for path, owner in ties.items()},
    )
    now = {old: path for path, old in plain.items()}
    return replace(
        table,
        links={now[path]: links for path, links in table.links.items()},
        ours={now[path]: shape for path, shape in table.ours.items()},
        copies={key: now[path] for key, path in table.copies.items()},
    )


def renamings(paths: Iterable[str], keys: KeyMap) -> dict[str, str]:
    """Regular expressions for the checkpoint's paths of layers, to ours, where each is one layer under two names.

    Args:
        paths: ours, of all layers.
    """
    general: dict[str, str] = {}
    single: dict[str, str] = {}
    found_at = {path: keys.places(path) for path in paths}
    # What holds other layers there, and none of them here, is no prefix of theirs.
    holders = {head for places in found_at.values() for link in places for head in heads(link.key)}
    for path, places in found_at.items():
        if len(places) != 1 or not places[0].renames or places[0].key == path or places[0].key in holders:
            continue
        theirs, ours = re.split(r"(?<=\.)(\d+)(?=\.)", places[0].key), re.split(r"(?<=\.)(\d+)(?=\.)", path)
        shared = theirs[1::2][: len(ours) // 2] == ours[1::2]
        # Numbers of ours that theirs begin with are any numbers: the layers of a stack are alike.
        count = len(ours) // 2 if shared else 0
        found = "".join(
            r"(\d+)" if index % 2 and index < 2 * count else re.escape(part) for index, part in enumerate(theirs)
        )
        made = "".join(rf"\g<{index // 2 + 1}>" if index % 2 and count else part for index, part in enumerate(ours))
        if general.setdefault(rf"^{found}(?=\.)", made) != made:
            single[rf"^{re.escape(places[0].key)}(?=\.)"] = path
    # The first that matches counts: a part before what holds it.
    return dict(sorted([*single.items(), *general.items()], key=_deepest_first))


def _deepest_first(renaming: tuple[str, str]) -> int:
    return -renaming[0].count(r"\.")
