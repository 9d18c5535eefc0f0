"""What one call of ``generate`` asks of a model that hears: settings beyond those of a single window."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from omniform.architectures.encoder_decoder import MemoryCausalLM
from omniform.architectures.speech import SpeechToText
from omniform.core.errors import InputError, brief
from omniform.core.kinds import NUMBER, plain
from omniform.engine.settings import Asked

log = logging.getLogger("omniform")

Progress = Callable[[Tensor], object]

_BEHIND_FORCE = "force_unique_generate_call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """How a call listens.

    Attributes:
        timestamps: whether rows say when something was spoken.
        first_stamp: the token of the earliest timestamp; one beyond the vocabulary where there are none.
        off_stamp: the token that turns them off; None where there is none.
        precision, frame_precision: seconds from one timestamp to the next, and from one frame to the next.
        temperatures: which are tried, one after another; None and 0 for the likeliest tokens.
        most_repeated: what is more compressible than this is written anew; None for never.
        least_likely: what is less likely than this, by token, is written anew; None for never.
        most_silent: what is so likely no speech, and unlikely as text, is left out; None for never.
        condition: whether windows are told what was written before; ``begins_conditioned``: whether the first, too.
        prompt: tokens that come before; None for none.
        prompt_everywhere: every window is told the prompt, instead of the first.
        before: the token that such tokens follow; None where the checkpoint has none.
        segments, token_times: what is given back beside tokens: segments; when each token was said.
        whole: one window is heard, and all that was written for it is given back.
        outputs, only_outputs: what ``generate`` gives of each window is wanted, with scores and the like; and nothing
            but that of the last window.
        as_outputs: windows' results are such outputs, and not tokens.
        shares: an assistant reads what the encoder gives.
        heads: the heads of the cross-attention that follow the speech.
        progress: is told how far the call is.
    """

    timestamps: bool
    first_stamp: int
    off_stamp: int | None
    precision: float
    frame_precision: float
    temperatures: tuple[float | None, ...]
    most_repeated: float | None
    least_likely: float | None
    most_silent: float | None
    condition: bool
    begins_conditioned: bool
    prompt: tuple[int, ...] | None
    prompt_everywhere: bool
    before: int | None
    segments: bool
    token_times: bool
    whole: bool
    outputs: bool
    only_outputs: bool
    as_outputs: bool
    shares: bool
    heads: Sequence[Sequence[int]]
    progress: Progress | None

    @property
    def draws(self) -> bool:
        """Whether any window may be sampled."""
        return any(t is not None and t > 0 for t in self.temperatures)

    @property
    def notes(self) -> bool:
        """Whether more is looked at than tokens."""
        return self.as_outputs or self.least_likely is not None

    @classmethod
    def read(cls, model: SpeechToText, asked: Asked, said: Mapping[str, object], *, long: bool) -> Hearing:
        """Understand a call.

        Args:
            asked: its settings, the temperature aside.
            said: what the caller named by keyword.
            long: whether there is more than a window to hear.

        Raises:
            InputError: values that cannot be, or that do not go together.
        """
        values = asked.values
        _check_together(model, asked, long=long)
        stamped = asked.known.get("return_timestamps")
        off = values.get("no_timestamps_token_id")
        off = off if isinstance(off, int) else None
        token_times = values["return_token_timestamps"] is True
        limits = [values[f"{name}_threshold"] for name in ("compression_ratio", "logprob", "no_speech")]
        most_repeated, least_likely, most_silent = cast("list[float | None]", limits)
        before = values.get("prev_sot_token_id")
        suppressed = cast("tuple[int, ...]", values["suppress_tokens"])
        if before is None and len(suppressed) >= 2:
            before = suppressed[-2]
        outputs = asked.flag("return_dict_in_generate")
        whole = values[_BEHIND_FORCE] is True
        return cls(
            timestamps=long or stamped is True,
            first_stamp=model.config.get("vocab_size", 0) + 1 if off is None else off + 1,  # type: ignore[operator]
            off_stamp=off,
            precision=cast(float, values["time_precision"]),
            frame_precision=cast(float, values["time_precision_features"]),
            temperatures=_temperatures(said),
            most_repeated=most_repeated,
            least_likely=least_likely,
            most_silent=most_silent,
            condition=values["condition_on_prev_tokens"] is True,
            begins_conditioned=said.get("condition_on_prev_tokens") is True,
            prompt=_prompt(values["prompt_ids"], model),
            prompt_everywhere=values["prompt_condition_type"] == "all-segments",
            before=before if isinstance(before, int) else None,
            segments=values["return_segments"] is True,
            token_times=token_times,
            whole=whole,
            outputs=outputs,
            only_outputs=outputs and (whole or said.get("return_timestamps") is not True),
            as_outputs=outputs or token_times or said.get("logprob_threshold") is not None,
            shares=isinstance(asked.parts.get("assistant_model"), MemoryCausalLM),
            heads=cast("Sequence[Sequence[int]]", values.get("alignment_heads") or ()),
            progress=cast("Progress | None", values["monitor_progress"]),
        )


def _check_together(model: SpeechToText, asked: Asked, *, long: bool) -> None:
    """Refuse settings that need others, or a checkpoint that says more."""
    values = asked.values
    if long and asked.known.get("return_timestamps") is False:
        raise InputError(
            "what is longer than a window is heard by its timestamps",
            where="return_timestamps",
            expected=f"True, or at most {model.listener.window} frames",
            found=False,
        )
    if values["return_token_timestamps"] is True:
        model.check_shown("return_token_timestamps")
    if values["return_token_timestamps"] is True and not values.get("alignment_heads"):
        raise InputError(
            "the checkpoint does not say which heads follow the speech",
            where="return_token_timestamps",
            expected="alignment_heads in generation_config.json",
            found="none",
        )
    unlikely, off = values["logprob_threshold"], values.get("no_timestamps_token_id")
    if values["no_speech_threshold"] is not None and (unlikely is None or not isinstance(off, int)):
        raise InputError(
            "speech is told from silence by how likely its text is, too",
            where="no_speech_threshold",
            expected="logprob_threshold beside it, and a checkpoint with timestamps",
            found="logprob_threshold=None" if unlikely is None else "no no_timestamps_token_id",
        )
    condition = values["condition_on_prev_tokens"]
    if values["prompt_condition_type"] == "all-segments" and condition is not True:
        raise InputError(
            "a prompt for all windows stands before what was written of those before",
            where="prompt_condition_type",
            expected="condition_on_prev_tokens=True beside 'all-segments'",
            found=f"condition_on_prev_tokens={condition}",
        )
    progress = values["monitor_progress"]
    if progress is not None and not callable(progress):
        raise InputError("this cannot be told anything", where="monitor_progress", found=brief(progress))


def _temperatures(said: Mapping[str, object]) -> tuple[float | None, ...]:
    given = said.get("temperature")
    each = plain(given) if given is not None else None
    several = tuple(each) if isinstance(each, (list, tuple)) else (each,)
    found = []
    for one in several:
        try:
            found.append(None if one is None else cast(float, NUMBER.read(one)))
        except (TypeError, ValueError):
            found.append(-1.0)
    if not found or any(one is not None and one < 0 for one in found):
        raise InputError(
            "this value cannot be",
            where="temperature",
            expected="a number from 0, or several of them",
            found=brief(given),
        )
    if given is None and said.get("do_sample") is True:
        log.warning("no effect without temperature: do_sample")
    return tuple(found)


def _prompt(given: object, model: SpeechToText) -> tuple[int, ...] | None:
    """The tokens of ``prompt_ids``, as the processor's ``get_prompt_ids`` makes them."""
    if given is None:
        return None
    try:
        ids = torch.as_tensor(np.asarray(given) if isinstance(given, (list, tuple)) else given)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.empty(0)
    if ids.dim() != 1 or not ids.numel() or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(
            "a prompt is a row of tokens", where="prompt_ids", expected="shape [tokens]", found=brief(given)
        )
    outside = next((token for token in ids.tolist() if not model.knows(token)), None)
    if outside is not None:
        raise InputError(
            "a token is not in the vocabulary",
            where="prompt_ids",
            expected=f"tokens below {model.vocabulary}",
            found=outside,
        )
    return tuple(ids.tolist())
