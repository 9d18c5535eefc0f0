"""Hidden states and attention weights of every step, for whoever asks ``generate`` for them.

The engine's steps keep none: rows of all lengths lie end to end, and the last layer computes what is wanted only. They
are read off plain forwards over the finished rows instead, one for all steps of greedy search and sampling, one a step
of beam search; a token sees what it saw when it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.encoder_decoder import encoder_output
from omniform.architectures.generative import Generative
from omniform.architectures.speech import SpeechToText
from omniform.core.layouts import layout_of
from omniform.core.outputs import ModelOutput
from omniform.core.state import KV, Latent
from omniform.engine.calls import features_of, mask_of
from omniform.engine.prompts import as_prompts
from omniform.engine.request import Completion, Prompt, Row
from omniform.engine.sampling import processed
from omniform.engine.settings import Asked, Settings

Layers = tuple[Tensor, ...]
Steps = tuple[Layers, ...]

_ASKED = ("output_hidden_states", "output_attentions")
_STEPWISE = ("decoder_attentions", "cross_attentions", "decoder_hidden_states", "attentions", "hidden_states")
_WHOLE = ("encoder_attentions", "encoder_hidden_states")


class Replay:
    """Plain forwards over the rows of one call.

    Args:
        prompts: the rows of the call.
        named: its inputs by name.
        asked: its settings.
    """

    def __init__(self, model: Generative, prompts: Sequence[Prompt], named: Mapping[str, object], asked: Asked) -> None:
        self._model = model
        self._prompts = prompts
        self._named = model.read_inputs(named)
        self._asked = asked
        self._wanted = {name: True for name in _ASKED if asked.flag(name)}
        self._decoder = "decoder_input_ids" if model.encoder_inputs else "input_ids"
        self._vectors = None if model.encoder_inputs else self._rows_of_vectors(named.get("inputs_embeds"))
        self._windows = _windows(model)

    def _rows_of_vectors(self, given: object) -> Tensor | None:
        """Prompts that are vectors, rows of other lengths filled in front. Shape: [B, T, D]."""
        if given is None:
            return None
        rows = [given] if isinstance(given, Tensor) and given.dim() == 2 else list(cast("Sequence[Tensor]", given))
        longest = max(map(len, rows))
        filled = [torch.cat((row.new_zeros(longest - len(row), row.shape[1]), row)) for row in rows]
        return torch.stack(filled).to(self._model.device, self._model.dtype)

    def shown(self, prompt: Tensor, written: Tensor, found: Sequence[Completion]) -> dict[str, object]:
        """What was asked to be seen of the steps, by the names of the output's entries.

        Args:
            prompt: what stands before the answers. Shape: [B, T].
            written: the answers. Shape: [B, new].
            found: what came of each prompt.
        """
        if not self._wanted:
            return {}
        steps = [completion.steps.rows for completion in found if completion.steps is not None]
        return self._of_beams(steps, prompt.shape[1]) if steps else self._of_rows(prompt, written)

    def note_past_ends(self, prompt: Tensor, written: Tensor, found: Sequence[Completion], settings: Settings) -> None:
        """Note the scores of rows that ended before others as the ecosystem does: as if padding had been written on."""
        answers = [one for completion in found for one in completion.sequences]
        plain = settings.num_beams == 1 and settings.guidance_scale == 1 and settings.dola_layers is None
        short = [i for i, one in enumerate(answers) if len(one.tokens) < written.shape[1]]
        if not (short and plain and (settings.keep_scores or settings.keep_logits)) or settings.penalty_alpha:
            return
        logits = self._logits(torch.cat((prompt, written), dim=1)[:, :-1], prompt.shape[1])
        logits = logits[:, logits.shape[1] - written.shape[1] :]
        for i in short:
            for step in range(len(answers[i].tokens), written.shape[1]):
                tokens = [*prompt[i].tolist(), *written[i, :step].tolist()]
                scores = logits[i, step][None].float()
                if settings.keep_logits:
                    answers[i].logits.append(scores[0])
                if settings.keep_scores:
                    answers[i].scores.append(processed([Row(tokens, prompt.shape[1])], settings, scores)[0])

    def _of_rows(self, prompt: Tensor, written: Tensor) -> dict[str, object]:
        """Rows that go on each for itself."""
        rows = torch.cat((prompt, written), dim=1)[:, :-1]
        each = len(rows) // len(self._prompts)
        # Features belong to the prompts in their order, so each prompt's first answers are read together, and so on.
        outputs = [self._forward(rows[k::each], prompt.shape[1]) for k in range(each)]
        found: dict[str, object] = {}
        for name in _names(outputs[0]):
            if name in _WHOLE:
                found[name] = _entry(outputs[0], name)  # what an encoder read is read once
            else:
                layers = _woven([_entry(o, name) for o in outputs])
                found[name] = self._steps(layers, name, prompt.shape[1], written.shape[1])
        return found

    def _of_beams(self, searches: Sequence[list[list[list[int]]]], width: int) -> dict[str, object]:
        """Beams, step by step: those of all prompts of the call in each."""
        noted: dict[str, list[Layers]] = {}
        beams = self._asked.values["num_beams"]
        assert isinstance(beams, int)
        whole: dict[str, Layers] = {}
        for step in range(max(len(rows) for rows in searches)):
            # A search that is over goes on with the beams that it ended with, as nobody looks at them.
            ids = [_beams(rows[min(step, len(rows) - 1)], beams, width + step) for rows in searches]
            stacked = torch.tensor(ids, dtype=torch.long, device=self._model.device)  # [B, beams, T]
            outputs = [self._forward(stacked[:, k], width) for k in range(beams)]
            for name in _names(outputs[0]):
                layers = _woven([_entry(o, name) for o in outputs])
                if name in _WHOLE:
                    whole[name] = _entry(outputs[0], name)
                else:
                    last = layers if step == 0 else tuple(_last(x, name) for x in layers)
                    if step and name.endswith("attentions") and name != "cross_attentions":
                        last = self._seen(last, last[0].shape[-1], first=False)
                    noted.setdefault(name, []).append(last)
        return {**whole, **{name: tuple(steps) for name, steps in noted.items()}}

    def _steps(self, layers: Layers, name: str, prompt: int, count: int) -> Steps:
        """What a forward over whole rows gave, step by step: of the prompt, then of one token each."""
        if self._vectors is not None:
            prompt = self._vectors.shape[1]
        found = []
        for step in range(count):
            rows = slice(0, prompt) if step == 0 else slice(prompt + step - 1, prompt + step)
            if name.endswith("hidden_states"):
                found.append(tuple(x[:, rows] for x in layers))
            else:
                cut = tuple(x[:, :, rows] for x in layers)
                found.append(cut if name == "cross_attentions" else self._seen(cut, prompt + step, first=step == 0))
        return tuple(found)

    def _seen(self, layers: Layers, count: int, *, first: bool) -> Layers:
        """Weights of the first ``count`` keys; of a step after the first only those that its layer's window holds."""
        windows = self._windows if len(self._windows) == len(layers) and not first else [None] * len(layers)
        return tuple(
            x[..., 0 if w is None else max(0, count - w) : count] for x, w in zip(layers, windows, strict=True)
        )

    def _logits(self, rows: Tensor, width: int) -> Tensor:
        """The model's scores after every token. Shape: [B, T] to [B, T, V]."""
        each = len(rows) // len(self._prompts)
        outputs = [self._forward(rows[k::each], width) for k in range(each)]
        return _woven([(cast(Tensor, output["logits"]),) for output in outputs])[0]

    @torch.no_grad()
    def _forward(self, rows: Tensor, width: int) -> ModelOutput:
        """One forward over a row of each prompt, the first ``width`` tokens of which are the prompt. Shape: [B, T]."""
        inputs: dict[str, object] = {**self._features(), **self._wanted}
        if self._vectors is None:
            inputs[self._decoder] = rows
        else:
            written = self._model.embed(rows[:, width:])
            vectors = torch.cat((self._vectors, written.to(self._vectors.dtype)), dim=1)
            inputs["inputs_embeds"] = vectors
            rows, width = rows.new_zeros(vectors.shape[:2]), self._vectors.shape[1]
        given = self._named.get("encoder_outputs")
        if given is not None:
            inputs["encoder_outputs"] = encoder_output((given,) if isinstance(given, Tensor) else given)  # type: ignore[arg-type]
        if isinstance(self._model, SpeechToText) and any(len(p.tokens) < width for p in self._prompts):
            # What was said before is longer for some sounds than for others.
            lengths = torch.tensor([len(p.tokens) for p in self._prompts], device=rows.device)
            mask = (torch.arange(rows.shape[1], device=rows.device) >= width - lengths[:, None]).long()
            inputs["decoder_attention_mask"] = mask
            inputs["decoder_position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        if not self._model.encoder_inputs:
            mask = torch.ones_like(rows)
            mask[:, :width] = self._prompt_mask(width)
            inputs["attention_mask"] = mask
            if "position_ids" in self._model.accepts() and not self._model.reads_items:
                inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        if "use_cache" in self._model.accepts():
            inputs["use_cache"] = False
        return self._model.replayed(**inputs)

    def inputs(self) -> dict[str, Tensor]:
        """The call's inputs by name, but for the ids that the decoder begins with."""
        found = self._features()
        if not self._model.encoder_inputs:
            width = max(len(p.tokens) for p in self._prompts)
            mask = mask_of(self._named, self._asked)
            found["attention_mask"] = self._prompt_mask(width if mask is None else mask.shape[1])
        return found

    def _features(self) -> dict[str, Tensor]:
        """The call's inputs but for what the decoder reads."""
        encodes = bool(self._model.encoder_inputs)
        left_out = {self._decoder, "decoder_attention_mask", "encoder_outputs"}
        left_out |= set() if encodes else {"attention_mask", "inputs_embeds"}
        found = features_of(self._model, {n: value for n, value in self._named.items() if n not in left_out})
        ids = self._named.get("input_ids")
        if encodes and ids is not None and "input_ids" not in found:  # rows of any lengths
            prompts = as_prompts(ids, None, self._asked.pad_token_id, self._model.device)
            found["input_ids"] = prompts.ids
            if prompts.real is not None:
                found["attention_mask"] = prompts.real.long()
        return found

    def _prompt_mask(self, width: int) -> Tensor:
        """Which of the prompts' tokens are no padding. Shape: [B, T]."""
        mask = mask_of(self._named, self._asked)
        if mask is not None and mask.shape[1] == width:
            return mask.to(self._model.device).long()
        lengths = torch.tensor([len(p.tokens) for p in self._prompts], device=self._model.device)
        return (torch.arange(width, device=self._model.device) >= width - lengths[:, None]).long()


def _names(output: ModelOutput) -> list[str]:
    return [name for name in (*_STEPWISE, *_WHOLE) if output.get(name) is not None]


def _entry(output: ModelOutput, name: str) -> Layers:
    return cast(Layers, output[name])


def _woven(outputs: Sequence[Layers]) -> Layers:
    """The layers of several forwards as those of one, with the rows of each prompt side by side."""
    return tuple(torch.stack(layer, dim=1).flatten(0, 1) for layer in zip(*outputs, strict=True))


def _last(x: Tensor, name: str) -> Tensor:
    return x[:, -1:] if name.endswith("hidden_states") else x[:, :, -1:]


def _windows(model: Generative) -> list[int | None]:
    """How many keys each layer's attention looks at, layers without attention left out; None for all.

    The ecosystem's caches forget what lies before a window where the config calls it ``sliding_window``.
    """
    if model.config.get("sliding_window") is None:
        return []
    layout = layout_of(model.decoder)
    specs = [layout.specs[slot] for slots in layout.layers for slot in slots]
    return [spec.window for spec in specs if isinstance(spec, (KV, Latent))]


def _beams(rows: list[list[int]], beams: int, length: int) -> list[list[int]]:
    """One row for each beam, all of one length: padded in front, as prompts are; the first step's row is all beams'."""
    every = rows * beams if len(rows) == 1 else rows + rows[:1] * (beams - len(rows))
    filled = [[0] * max(0, length - len(row)) + row for row in every]
    return [row[len(row) - length :] for row in filled]
