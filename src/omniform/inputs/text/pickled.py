"""What a tokenizer is pickled as: the same bytes for the same tokenizer, whatever was done with it.

``datasets`` names the results of a map by a digest of the function's pickle, tokenizer included. A pickle refers to an
object that it has met before, so equal strings are made one object here: whether two of them happened to be one would
show in the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram

from omniform.inputs.text.recipes import Recipe, recipe_of
from omniform.inputs.text.settings import Settings

_LEFT_OUT = ("_turn",)


def state_of(attributes: Mapping[str, object]) -> dict[str, object]:
    """The attributes of a tokenizer as plain data, in an order of their own."""
    met: dict[str, str] = {}
    plain: dict[str, object] = {}
    for name in sorted(attributes):
        value = attributes[name]
        if isinstance(value, Recipe):
            value = value.name
        elif isinstance(value, Settings):
            value = {field.name: _field(value, field.name) for field in fields(value)}
        elif isinstance(value, Backend):
            # Scores are written exactly and read to within a last bit; once read they stay.
            exact = isinstance(value.model, Unigram)
            value = Backend.from_str(value.to_str()).to_str() if exact else value.to_str()
        if name not in _LEFT_OUT:
            plain[met.setdefault(name, name)] = _alike(value, met)
    return plain


def attributes_of(state: Mapping[str, object]) -> dict[str, object]:
    """The attributes that :func:`state_of` made plain."""
    attributes = dict(state)
    recipe, settings, backend = (attributes.pop(name) for name in ("recipe", "settings", "backend"))
    assert isinstance(recipe, str) and isinstance(settings, dict)
    if isinstance(backend, str):
        backend = Backend.from_str(backend)
    made = {"backend": backend, "recipe": recipe_of(recipe), "settings": Settings(**settings)}
    return {**attributes, **made}


def _field(settings: Settings, name: str) -> object:
    # Settings have slots, hence no vars().
    value: object = vars(Settings)[name].__get__(settings)
    return value


def _alike(value: object, met: dict[str, str]) -> object:
    if type(value) is str:
        return met.setdefault(value, value)
    if type(value) is dict:
        return {_alike(key, met): _alike(inner, met) for key, inner in value.items()}
    if type(value) is list:
        return [_alike(inner, met) for inner in value]
    if type(value) is tuple:
        return tuple(_alike(inner, met) for inner in value)
    if isinstance(value, AddedToken):
        return AddedToken(
            value.content,
            single_word=value.single_word,
            lstrip=value.lstrip,
            rstrip=value.rstrip,
            normalized=value.normalized,
            special=value.special,
        )
    return value
