"""``generate`` of models that write several codes at once: each codebook a step behind the one before.

The engine writes one token a row and step. Here all of a row's codes are written side by side, and a row's next step
reads all of them: a loop of its own over the cached decoder, with the engine's settings, rules, filters and draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.codes import Beginning, CodesWriter
from omniform.architectures.named import PreTrainedModel
from omniform.core.errors import InputError, check_arguments
from omniform.core.generation import GenerationConfig, as_settings
from omniform.core.outputs import CausalLMOutput
from omniform.core.settings import SETTINGS
from omniform.core.state import DenseState
from omniform.engine.generate_output import GenerateOutput
from omniform.engine.own_loop import Loop, _criteria, _own, _refuse_what_needs_the_engine, _written
from omniform.engine.settings import Asked
from omniform.engine.streamers import Streamer


@dataclass(slots=True)
class Playing(Loop):
    """One call.

    Attributes:
        pattern: what stands where, -1 where it is to be written. Shape: [B * K, longest].
        begun: what is written on from; of guided rows, those that are told nothing stand behind the others.
        guidance: how much more the text counts for than usual; 1 for as usual.
        state: what the decoder keeps.
    """

    pattern: Tensor = field(default_factory=lambda: torch.empty(0))
    begun: Beginning = field(default_factory=lambda: Beginning(torch.empty(0)))
    guidance: float = 1.0
    state: DenseState | None = None

    def forward(self) -> Tensor:
        """Scores of every codebook's next code, float32; of guided rows twice. Shape: [R, V]."""
        writer = cast(CodesWriter, self.model).writer
        self.ids = writer.apply_delay_pattern_mask(self.ids, self.pattern)
        read = self.ids if self.state is None else self.ids[:, self.state.length :]
        read = read.repeat(2, 1) if self.guidance > 1 else read
        out = writer(
            read,
            encoder_hidden_states=self.begun.memory,
            encoder_attention_mask=self.begun.mask,
            past_key_values=self.state,
            use_cache=self.inputs["use_cache"],
        )
        assert isinstance(out, CausalLMOutput) and out.logits is not None
        self.state = out.past_key_values
        found = out.logits[:, -1].to(torch.float32, copy=True)
        if self.settings.keep_logits:
            self.logits.append(found.clone())
        return found

    def ruled(self, scores_RV: Tensor) -> Tensor:
        """Scores after the rules, and after what the text is to count for more. Shape: [R, V], or [2 R, V] in."""
        if self.guidance <= 1:
            return Loop.ruled(self, scores_RV)
        told, untold = scores_RV.chunk(2)
        told = Loop.ruled(self, told)
        return untold + (told - untold) * self.guidance


@torch.no_grad()
def generate(
    model: CodesWriter,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    kwargs: Mapping[str, object],
    streamer: Streamer | None,
) -> Tensor | GenerateOutput:
    """Write codes, greedily or drawn.

    Args:
        inputs: the model's first input.
        kwargs: the model's inputs, and settings.

    Returns:
        The codes, Shape: [B, K, T]; of a model with a codec the sound, Shape: [B, channels, samples].

    Raises:
        InputError: a setting that needs the engine, nothing to write on from.
    """
    names = {*SETTINGS, *model.accepts()}
    check_arguments("generate", [name for name, value in kwargs.items() if value is not None], names)
    asked = Asked(model, as_settings(generation_config), {k: v for k, v in kwargs.items() if k in SETTINGS})
    named = {name: value for name, value in kwargs.items() if name not in SETTINGS and value is not None}
    if inputs is not None:
        named[model.main_input] = inputs
    guidance = asked.known.get("guidance_scale")
    guidance = float(guidance) if isinstance(guidance, int | float) else 1.0
    asked.known = {**asked.known, "guidance_scale": None}
    start, pad = _codes(asked, model, "decoder_start_token_id"), _codes(asked, model, "pad_token_id")
    begun = model.begin(named, start)
    length = begun.codes.shape[1]
    settings = asked(length)
    if settings.num_beams > 1:
        raise InputError(
            "codes are written greedily or drawn", where="num_beams", expected="1", found=settings.num_beams
        )
    _refuse_what_needs_the_engine(settings, asked)
    if guidance > 1:
        _doubled(begun)
    _repeated(begun, settings.num_return_sequences, model.writer.num_codebooks)
    ids, pattern = model.writer.build_delay_pattern_mask(begun.codes, start, length + settings.max_new_tokens)
    loop = Playing(
        cast(PreTrainedModel, model), settings, _own(asked, settings), _criteria(settings, asked, length, None), ids,
        {"use_cache": asked.known.get("use_cache") is not False}, [0] * len(ids), ids.shape[1],
        encoded=begun.unguided is not None, pattern=pattern, begun=begun, guidance=guidance,
    )  # fmt: skip
    made = _written(loop, asked, streamer)
    codes = model.writer.apply_delay_pattern_mask(loop.ids, pattern)
    codes = codes[codes != pad].view(len(codes) // model.writer.num_codebooks, model.writer.num_codebooks, -1)
    found = model.finish(codes, begun)
    if isinstance(made, Tensor):
        return found
    made.sequences = found
    return made


def _codes(asked: Asked, model: CodesWriter, name: str) -> int:
    """A code that stands for nothing: as the call says, or the config."""
    told = asked.values.get(name)
    if isinstance(told, tuple) and told:
        return int(told[0])
    own = model.writer.start if name == "decoder_start_token_id" else model.writer.pad
    if own is None:
        raise InputError("nobody says which code stands for nothing", where=name, expected="a code", found="null")
    return own


def _doubled(begun: Beginning) -> None:
    """Let rows that are told nothing stand behind the others."""
    if begun.unguided is None or begun.memory is None:
        return  # the caller has done so
    begun.memory = torch.cat((begun.memory, begun.unguided))
    if begun.mask is not None:
        begun.mask = torch.cat((begun.mask, torch.zeros_like(begun.mask)))


def _repeated(begun: Beginning, times: int, books: int) -> None:
    """Let each row stand so often."""
    if times == 1:
        return
    rows, length = begun.codes.shape
    codes = begun.codes.view(rows // books, books, length)
    begun.codes = codes.repeat_interleave(times, 0).flatten(0, 1)
    begun.memory = None if begun.memory is None else begun.memory.repeat_interleave(times, 0)
    begun.mask = None if begun.mask is None else begun.mask.repeat_interleave(times, 0)
