"""A model of ours as lm-eval asks models: log-likelihoods of texts, and texts written until something."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Protocol, cast

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import DependencyError, InputError, brief
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.engine.settings import Asked
from omniform.hub.auto_inputs import AutoTokenizer
from omniform.hub.checkpoint import load_as_saved
from omniform.inputs.processors import ProcessorMixin
from omniform.inputs.text.tokenizer import Tokenizer

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import (
        handle_stop_sequences,
        has_bos_prefix,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
except ImportError as error:
    raise DependencyError("lm-eval is not installed", where="lm_eval", remedy="pip install 'omniform[eval]'") from error

LONGEST: Final = 2048
"""Tokens of the longest text, where the model itself sets no limit: lm-eval's default."""

AT_ONCE: Final = 256
"""So many requests are asked for at a time; the engine sees which of them begin alike."""


class _Asked(Protocol):
    """One request of lm-eval."""

    args: tuple[str, ...]


@register_model("omniform")
class OmniformLM(TemplateLM):  # type: ignore[misc]
    """A model that lm-eval evaluates.

    Texts are cut into tokens, shortened and put together as lm-eval's own class for the reference does it, so numbers
    can be compared; what texts have in common at their beginning is computed once.

    Args:
        pretrained: a model, or a checkpoint's folder or Hub id.
        tokenizer: its tokenizer, or where that is; the checkpoint's own by default.
        dtype: what a checkpoint is computed with.
        max_length: tokens of the longest text; the model's own limit by default.
        max_gen_toks: how many tokens are written where a task does not say.
        add_bos_token: whether texts are framed by the tokenizer's special tokens; None for as it does by itself.
        memory: of the engine.
        batch_size, max_batch_size, device: lm-eval's; the engine finds out by itself how many rows fit.

    Raises:
        InputError: the model does not write, or its tokenizer names no token that texts end or begin with.
    """

    def __init__(
        self,
        pretrained: Model | str | os.PathLike[str],
        tokenizer: object = None,
        *,
        dtype: str = "auto",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        memory: int | str | None = "auto",
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
    ) -> None:
        super().__init__()
        model = pretrained if isinstance(pretrained, Model) else load_as_saved(pretrained, dtype=dtype)
        if tokenizer is None and not isinstance(pretrained, Model):
            tokenizer = pretrained
        if tokenizer is None:
            raise InputError("a model alone reads no texts", where="tokenizer", expected="its tokenizer", found="None")
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        reader = tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer
        if not isinstance(reader, Tokenizer):
            raise InputError("this reads no texts", where="tokenizer", expected="a tokenizer", found=brief(reader))
        if not isinstance(model, Generative) or reader.eos_token_id is None:
            raise InputError(
                "lm-eval asks what writes texts",
                where="pretrained",
                expected="a model that writes, and a tokenizer that names a token which texts end with",
                found=type(model).__name__,
            )
        self.tokenizer, self._end = reader, reader.eos_token_id
        self.engine = Engine(model, cast(Reader, self.tokenizer), memory=memory)
        self.model = model
        self.backend = "seq2seq" if self.model.encoder_inputs else "causal"
        self.max_length = max_length or self.model.max_positions or LONGEST
        self.max_gen_toks = max_gen_toks
        self._add_bos_token = add_bos_token
        self._name = type(model).__name__ if isinstance(pretrained, Model) else str(pretrained)
        self._device = model.device

    # -- texts and tokens --------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._end

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text that nothing comes before."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def tokenizer_name(self) -> str:
        """A name for caches of requests."""
        return self._name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """A text's tokens; special ones are not added twice to a text that holds them."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        return self._encoded(string, self._add_bos_token if add_special_tokens is None else add_special_tokens)

    def _encoded(self, text: str, framed: bool | None) -> list[int]:
        encode = self.tokenizer.encode
        ids = encode(text) if framed is None else encode(text, add_special_tokens=framed)
        return list(cast("list[int]", ids))

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    # -- what lm-eval asks -------------------------------------------------------------------------------------------

    def loglikelihood_rolling(self, requests: list[_Asked], disable_tqdm: bool = False) -> list[float]:
        """How likely whole texts are, each token after as many before it as the model can read."""
        windows: list[tuple[None, list[int], list[int]]] = []
        counts: list[int] = []
        for request in requests:
            (text,) = request.args
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = [(None, *utils.make_disjoint_window(window)) for window in rolling]
            windows += own
            counts.append(len(own))
        scores = iter(self._loglikelihood_tokens(windows))
        found = [sum(next(scores)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: object,
    ) -> list[tuple[float, bool]]:
        pairs = [(self._fitting(context, continuation), continuation) for _, context, continuation in requests]
        found: list[tuple[float, bool]] = []
        for request, score in zip(requests, self.engine.score(pairs), strict=True):
            found.append((score.total, score.is_greedy))
            if request[0] is not None:
                self.cache_hook.add_partial("loglikelihood", request[0], found[-1])
        return found

    def _fitting(self, context: list[int], continuation: list[int]) -> list[int]:
        """The end of a context that the model can read, with the continuation; all of it where an encoder reads it."""
        if self.backend == "seq2seq":
            return context[-self.max_length :]
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise InputError(
                "a continuation is longer than the model's positions",
                where="continuation",
                expected=f"at most {self.max_length} tokens",
                found=f"{len(continuation)} tokens",
            )
        return context[-room:]

    def generate_until(self, requests: list[_Asked], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after texts, up to one of the texts that end it."""
        found: list[str] = []
        for first in range(0, len(requests), AT_ONCE):
            some = requests[first : first + AT_ONCE]
            prompts, settings, ends = [], [], []
            for request in some:
                prompt, own, until = self._generation(request.args[0], request.args[1])
                prompts.append(prompt)
                settings.append(own)
                ends.append(until)
            for request, until, told in zip(some, ends, self.engine.generate_batch(prompts, settings), strict=True):
                text = postprocess_generated_text(self.tok_decode(told.tokens), until, None)
                self.cache_hook.add_partial("generate_until", request.args, text)
                found.append(text)
        return found

    def _generation(self, context: str, given: object) -> tuple[list[int], dict[str, object], list[str]]:
        """A request's prompt, the engine's settings for it, and the texts that end the answer."""
        if not isinstance(given, dict):
            raise InputError("settings of a task are a mapping", where="generation_kwargs", found=brief(given))
        asked = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        eos = self.tok_decode([self.eot_token_id], skip_special_tokens=False)
        until = handle_stop_sequences(asked.pop("until", None), eos=eos)
        count = asked.pop("max_gen_toks")
        asked.pop("max_length", None)  # of prompt and answer, which the number of new tokens outranks
        room = self.max_length if self.backend == "seq2seq" else self.max_length - count
        if room < 1:
            raise InputError(
                "the answer leaves no room for a prompt",
                where="max_gen_toks",
                expected=f"less than the model's {self.max_length} tokens",
                found=count,
            )
        if asked.get("do_sample") is not True:
            asked.pop("temperature", None)
            asked["do_sample"] = False
        known = Asked(self.model, {}).values["eos_token_id"]
        ids = list(dict.fromkeys([*(known if isinstance(known, tuple) else ()), self.eot_token_id]))
        stops = [text for text in until if text and text != eos]
        settings = {**asked, "max_new_tokens": count, "eos_token_id": ids, **({"stop_strings": stops} if stops else {})}
        return self._read(context)[-room:], settings, until

    def _read(self, context: str) -> list[int]:
        """A prompt's tokens."""
        own = has_bos_prefix(context, self.tokenizer.bos_token)
        return self._encoded(context, False if own else self._add_bos_token)
