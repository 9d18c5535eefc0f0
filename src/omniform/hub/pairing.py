"""Models of two checkpoints: an encoder, and a decoder that learns to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.paired import as_decoder
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError
from omniform.hub.auto import AutoConfig, AutoModel, AutoModelForCausalLM
from omniform.hub.checkpoint import Name

SIDES = ("encoder", "decoder")


def load_both(kind: type[PreTrainedModel], encoder: Name | None, decoder: Name | None, **kwargs: object) -> Model:
    """A pair of two checkpoints, in evaluation mode.

    Args:
        kind: the class of pairs.
        encoder: a folder or a Hub id; None where ``encoder_model`` is given.
        decoder: likewise. What it lacks to look at an encoder is made anew, to be trained.
        kwargs: those that begin with ``encoder_`` or ``decoder_`` are for loading that one; ``encoder_model`` and
            ``decoder_model`` are models that are there already. The others are keys of the config of both.

    Raises:
        InputError: neither a name nor a model.
    """
    own: dict[str, dict[str, object]] = {side: {} for side in SIDES}
    rest: dict[str, object] = {}
    for name, value in kwargs.items():
        side, _, plain = name.partition("_")
        if side in own and name != "decoder_start_token_id":  # which is a key of the config of both
            own[side][plain] = value
        else:
            rest[name] = value
    heard = _part("encoder", AutoModel, encoder, own["encoder"])
    if own["decoder"].get("model") is None and own["decoder"].get("config") is None and decoder is not None:
        own["decoder"]["config"] = as_decoder(AutoConfig.from_pretrained(decoder))
    written = _part("decoder", AutoModelForCausalLM, decoder, own["decoder"])
    parts = {"encoder": heard, "decoder": written}
    config = kind.around(None, parts)
    made: Callable[..., PreTrainedModel] = kind
    return made(config.replace(**rest) if rest else config, **parts).eval()


def _part(side: str, door: type[AutoModel], name: Name | None, kwargs: Mapping[str, object]) -> Model:
    given = kwargs.get("model")
    if isinstance(given, Model):
        return given
    if name is None:
        raise InputError(
            f"there is no {side}",
            where=f"{side}_pretrained_model_name_or_path",
            expected=f"a folder, a Hub id, or {side}_model=...",
            found="None",
        )
    config = kwargs.get("config")
    if config is not None and not isinstance(config, ModelConfig):
        raise InputError("not a config", where=f"{side}_config", found=type(config).__name__)
    return door.from_pretrained(name, **kwargs)
