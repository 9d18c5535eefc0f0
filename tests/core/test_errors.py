"""Messages of errors: whatever they quote, they can be printed."""

from __future__ import annotations

import pytest

from omniform.core.errors import InputError, listed, nearest
from reference import omniform


def test_what_cannot_be_printed_is_escaped() -> None:
    text = str(InputError("half \ud800", where="a\0b", found="\x1b[2J\x9b", expected="\u00e9 \U0001f600", remedy="\r"))
    assert text == "a\\x00b: half \\ud800; expected \u00e9 \U0001f600; found \\x1b[2J\\x9b. \\r"
    with pytest.raises(omniform.OmniformError) as caught:
        omniform.AutoImageProcessor.from_pretrained("\ud800")
    str(caught.value).encode()


def test_names_of_our_own_are_not_suggested() -> None:
    assert nearest("zzzz", ["_inside", "top_k"]) == "Known: top_k."


def test_many_names_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(300)).endswith("18, 19, ... (300 in all)")
    assert len(listed(["x" * 3000] * 9)) < 1100
