"""One parity harness: a family's test is a table, and the checks run over it.

    class TestLlama(Parity):
        table = Table("llama", transformers.LlamaConfig, TINY, heads=decoder_heads("Llama"), variants={...}, ...)

Every parameter and buffer is random (``reference.saved_reference``), every case is built once and shared by its checks,
and every case also runs with weights so small that activations are about 0.03 and a wrong epsilon shows.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from askers import Inputs, Question
from heads import Head as Head
from heads import bare as bare
from heads import classifiers as classifiers
from heads import compiled as compiled
from heads import decoder_heads as decoder_heads
from heads import gamma as gamma
from heads import routed_heads as routed_heads
from parity_known import KNOWN
from safetensors.torch import load_file, save_file
from torch import nn
from writers import Writer, in_pieces

from omniform.architectures.model import Model
from omniform.models import registry
from reference import (
    TOLERANCE,
    check_round_trip,
    close,
    omniform,
    saved_reference,
    trains,
    transformers,
    unaccounted,
    wrong_defaults,
)

LARGE, SMALL = 0.2, 0.02
"""Scales of random weights: with the small one a wrong epsilon is seen."""

BACKENDS = ("eager", "sdpa")
SHOWN = ("cross_attentions",)
"""What is shown to who asks for attentions, also where the reference computes it and shows it to nobody."""
PIECES = ((9, 3), (1,), (4, 4, 4), (2, 5, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A family's cases.

    Attributes:
        model_type: the family.
        config: makes the reference's config: its class, or a function for configs of several parts.
        tiny: the keys of a small model.
        heads: by a name for the case; the first is the base model.
        variants: config keys to change, by a name for the case; ``"plain"`` changes nothing.
        writes: the head that generates, and how it is prompted.
        writing: variants that generate; None for all.
        feeding: variants that are fed piece by piece; None for those that generate.
        scale: of the weights of a model that writes something worth comparing.
        spellings: old names of keys, from today's, each as a function of a key.
        config_class: whose fields must be accounted for and have the same defaults; ``config`` itself if None.
        given: keys that our reader needs beside the reference's defaults.
        derived: fields whose resolved value differs from what the reference's class holds, knowingly.
        half: how far bfloat16 may be off.
        tolerance: how far float32 may be off, of max(1, the expected value).
    """

    model_type: str
    config: Callable[..., object]
    tiny: Mapping[str, object]
    heads: Mapping[str, Head]
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"plain": {}})
    writes: tuple[str, Writer] | None = None
    writing: Sequence[str] | None = None
    feeding: Sequence[str] | None = None
    scale: float = 0.4
    spellings: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    config_class: type | None = None
    given: Mapping[str, object] = field(default_factory=dict)
    derived: frozenset[str] = frozenset()
    half: float = 3e-2
    tolerance: float = TOLERANCE

    def case(self, head: str, variant: str = "plain", scale: float = LARGE) -> Case:
        """One case."""
        return Case(self, head, variant, scale)

    def all(self) -> Iterator[Case]:
        """Every head, every variant where it is tried; in the small scale only what another case does not show.

        What a variant changes lies below the heads: the first of those that are tried everywhere tells its small
        numbers.
        """
        widest = next((name for name, head in self.heads.items() if head.everywhere), None)
        for name, head in self.heads.items():
            for variant in [v for v in self.variants if v not in head.but] if head.everywhere else ("plain",):
                yield self.case(name, variant, LARGE)
                if variant == "plain" or name == widest:
                    yield self.case(name, variant, SMALL)

    def itself(self) -> Iterator[Case]:
        """One case, for what is asked of the family as a whole."""
        yield self.case(next(iter(self.heads)))

    def once(self) -> Iterator[Case]:
        """The same in one scale."""
        return (case for case in self.all() if case.scale == LARGE)

    def small(self) -> Iterator[Case]:
        """The same in the small scale."""
        return (case for case in self.all() if case.scale == SMALL)

    def apart(self) -> Iterator[Case]:
        """Every head as it is, and every variant once."""
        told = set()
        for case in self.once():
            if case.variant == "plain" or case.variant not in told:
                told.add(case.variant)
                yield case

    def first_varied(self) -> Iterator[Case]:
        """Every variant once, by the first head that has it."""
        return (case for case in self.apart() if case.variant != "plain")

    def crossed(self) -> Iterator[Case]:
        """Variants that another head has shown."""
        apart = [*self.apart()]
        return (case for case in self.once() if case not in apart)

    def varied(self) -> Iterator[Case]:
        """Every head with what a variant changes."""
        return (case for case in self.once() if case.variant != "plain")

    def plain(self) -> Iterator[Case]:
        """Every head as it is."""
        return (case for case in self.once() if case.variant == "plain")

    def taught(self) -> Iterator[Case]:
        """Every head with a loss, as it is."""
        return (case for case in self.plain() if _teaches(case.content(), case))

    def each(self) -> Iterator[Case]:
        """Every architecture, as it is."""
        first = {head.reference: name for name, head in reversed(self.heads.items())}
        return (case for case in self.plain() if case.head in [*first.values()])

    def beyond_base(self) -> Iterator[Case]:
        """Every architecture but the base model."""
        return (case for case in self.each() if case.architecture is not self.base)

    @property
    def base(self) -> Head:
        """The model without a head."""
        return next(iter(self.heads.values()))

    def written(self) -> Iterator[Case]:
        """Models that write."""
        if self.writes is not None:
            for variant in self.variants if self.writing is None else self.writing:
                yield self.case(self.writes[0], variant, self.scale)

    def fed(self) -> Iterator[Case]:
        """Models that keep what they have read."""
        if self.writes is not None:
            fed = self.writing if self.feeding is None else self.feeding
            for variant in self.variants if fed is None else fed:
                yield self.case(self.writes[0], variant)

    def first_written(self) -> Iterator[Case]:
        """The first of them."""
        return islice(self.written(), 1)

    def more_written(self) -> Iterator[Case]:
        """The others."""
        return islice(self.written(), 1, None)

    def first_fed(self) -> Iterator[Case]:
        """The first of them."""
        return islice(self.fed(), 1)

    def more_fed(self) -> Iterator[Case]:
        """The others."""
        return islice(self.fed(), 1, None)

    def counting(self) -> Iterator[Case]:
        """Heads that can be told how many labels a batch of batches has: the writer."""
        return (case for case in self.written() if case.variant == "plain")


@dataclass(frozen=True, slots=True)
class Case:
    """A head of a family, with a variant of its config and weights of some size."""

    table: Table = field(repr=False, hash=False, compare=False)
    head: str
    variant: str
    scale: float

    def __str__(self) -> str:
        return f"{self.head}, {self.variant}" + {LARGE: "", SMALL: ", small"}.get(self.scale, "")

    @property
    def architecture(self) -> Head:
        return self.table.heads[self.head]

    @property
    def writer(self) -> Writer:
        assert self.table.writes is not None
        return self.table.writes[1]

    def config(self) -> object:
        """The reference's config."""
        return self.table.config(**copy.deepcopy(self.changes()))

    def changes(self) -> dict[str, object]:
        """The keys that the config is made of."""
        return {**self.table.tiny, **self.architecture.asks.config, **self.table.variants[self.variant]}

    def content(self) -> str:
        """What its models are made of: two cases of one name, from two tables, are two where this differs."""
        own = self.architecture
        return repr((self.table.model_type, self.table.config, own.reference, own.auto, self.changes()))

    def lesson(self) -> Inputs | None:
        return self.architecture.asks.lesson(_read_only(self.content(), self))

    def questions(self) -> list[Question]:
        return list(self.architecture.asks.questions(_read_only(self.content(), self)))

    def telling(self) -> list[Question]:
        """The questions that this case is there for: all of them where config and weights are the plain ones."""
        questions = self.questions()
        if self.scale == SMALL:
            return questions[:1]  # for epsilons, which the plainest question shows
        if self.variant == "plain":
            return questions
        return [questions[0], *[q for q in questions[1:] if q.real is not None or "loss" in q.fields][:2]]


@lru_cache(maxsize=32)
def _read_only(_: str, case: Case) -> object:
    """The reference's config of a case, to look into."""
    return case.config()


@cache
def _teaches(_: str, case: Case) -> bool:
    """Whether a case has a loss: asked where tests are collected, by several of them."""
    return case.lesson() is not None


@dataclass(frozen=True, slots=True)
class Built:
    """A case's models and the folder that both came from.

    Attributes:
        forgetful: whether the reference's forgets each row; not so where it remembers the longest (dynamic rotary
            scaling).
    """

    ours: Model
    theirs: nn.Module
    folder: Path
    held: object
    forgetful: bool

    def again(self, case: Case, **kwargs: object) -> Model:
        """Ours, loaded anew: to be changed."""
        return case.architecture.load(self.folder, **kwargs)


def build(case: Case) -> Built:
    """A case's models, made once for all that are of the same content."""
    return _built(case.content(), case)


@lru_cache(maxsize=160)
def _built(_: str, case: Case) -> Built:
    held = tempfile.TemporaryDirectory()
    folder = Path(held.name) / "model"
    theirs = saved_reference(
        getattr(transformers, case.architecture.reference), case.config(), folder, scale=case.scale
    )
    # Its fused attention leaves soft caps out. What it froze while it made the model (backbones) is as loaded.
    theirs.set_attn_implementation("eager")
    theirs.set_experts_implementation("eager")  # its kernels take no odd sizes
    told = repr(theirs.config)
    forgetful = "dynamic" not in told and "longrope" not in told
    return Built(case.architecture.load(folder), theirs.requires_grad_(True), folder, held, forgetful)


def theirs_of(built: Built) -> nn.Module:
    """The reference; a copy where it remembers what it has seen."""
    return built.theirs if built.forgetful else copy.deepcopy(built.theirs)


DEFAULT_DTYPE = (
    "embed_positions.weights", "relative_coords_table", "encode_positions.pe", "pos_sinusoidal_embed.weights",
)  # fmt: skip
"""Buffers that are in no file, and that the reference makes in the dtype that it loads a model in (M2M100, Swin v2,
SpeechT5)."""


def halved(theirs: nn.Module) -> nn.Module:
    """The reference in bfloat16 as it loads itself: what is in no file, such as rotary frequencies, keeps its dtype."""
    half = copy.deepcopy(theirs).bfloat16()
    held = theirs.state_dict()
    for name, buffer in theirs.named_buffers():
        if name not in held and not name.endswith(DEFAULT_DTYPE):
            path, _, own = name.rpartition(".")
            half.get_submodule(path)._buffers[own] = buffer.clone()
    return half


@torch.no_grad()
def ask(model: nn.Module, question: Question, backend: str) -> Mapping[str, object]:
    """A model's answer."""
    flags: Inputs = {}
    if any("hidden_states" in f and f != "image_hidden_states" for f in question.fields):
        flags["output_hidden_states"] = True
    if any("attentions" in f for f in question.fields):
        flags["output_attentions"] = True
    model.set_attn_implementation(backend)
    torch.manual_seed(0)  # for models that leave something to chance in use
    return model(**question.inputs, **flags)


def match(found: object, expected: object, question: Question, what: str, tolerance: float = 1e-4) -> None:
    """Compare an output at the tokens that count."""
    if isinstance(expected, (tuple, list)):
        assert isinstance(found, (tuple, list)) and len(found) == len(expected), f"{what}: {len(expected)} expected"
        for i, (mine, other) in enumerate(zip(found, expected, strict=True)):
            match(mine, other, question, f"{what}[{i}]", tolerance)
        return
    if question.real is not None and expected.shape[:2] == question.real.shape:
        found, expected = found[question.real], expected[question.real]
    close(found, expected, what, tolerance)


def largest_error(found: torch.Tensor, exact: torch.Tensor, question: Question) -> float:
    """How far an output is from the exact one at most, at the tokens that count, as :func:`close` measures."""
    if question.real is not None and exact.shape[:2] == question.real.shape:
        found, exact = found[question.real], exact[question.real]
    error = (found.to(exact.dtype) - exact).abs() / exact.abs().clamp(min=1)
    return float(error.max())


def widened(question: Question, dtype: torch.dtype = torch.float32) -> Question:
    """The same question in a wider dtype."""
    inputs = {
        k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in question.inputs.items()
    }
    return Question(inputs, question.fields, question.real)


def filled(output: Mapping[str, object]) -> list[str]:
    """The entries of an output, in order, without empty ones."""
    return [k for k, v in output.items() if v is not None and not (isinstance(v, tuple) and not v)]


def over(pick: Callable[[Table], Iterator[Case]]) -> Callable[[Callable], Callable]:
    """Run a check for every case that ``pick`` gives."""

    def mark(check: Callable) -> Callable:
        check.pick = pick  # type: ignore[attr-defined]
        return check

    return mark


generate = transformers.GenerationMixin.generate
"""The reference's; Whisper's own is for whole recordings."""

TABLES: list[Table] = []
"""Every table there is."""


class Parity:
    """The checks; a family's test class gives the table."""

    table: ClassVar[Table]

    def __init_subclass__(cls) -> None:
        TABLES.append(cls.table)
        cls.__test__ = cls.table.model_type in registry.known_families()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        pick = vars(metafunc.function).get("pick")
        if pick is None:
            return
        cases = []
        for case in pick(self.table):
            name = (self.table.model_type, metafunc.function.__name__, str(case))
            # A case that is listed and passes fails: the list only shrinks.
            marks = [pytest.mark.xfail(strict=True)] if name in KNOWN or name[:2] in KNOWN else []
            cases.append(pytest.param(case, id=str(case), marks=marks))
        metafunc.parametrize("case", cases)

    @over(Table.small)
    def test_small_outputs(self, case: Case) -> None:
        """The same where a wrong epsilon shows."""
        self.test_outputs(case)

    @over(Table.crossed)
    def test_crossed_outputs(self, case: Case) -> None:
        """The same for variants of further heads."""
        self.test_outputs(case)

    @over(Table.first_varied)
    def test_variant_outputs(self, case: Case) -> None:
        """The same for what variants change."""
        self.test_outputs(case)

    @over(Table.plain)
    def test_outputs(self, case: Case) -> None:
        """Every output, hidden states and attentions included, whole and padded, in both implementations."""
        built = build(case)
        theirs = theirs_of(built)
        for number, question in enumerate(case.telling()):
            expected = ask(theirs, question, "eager")
            # Attentions are written out in either implementation.
            tapped = any("attentions" in name for name in question.fields)
            for backend in BACKENDS[:1] if tapped else BACKENDS if case.variant == "plain" else BACKENDS[1:]:
                found = ask(built.ours, question, backend)
                for name in question.fields:
                    # Padding that may see nothing sees all in one implementation and nothing in the other: it counts
                    # in the loss of an answer's place only.
                    if name != "loss" or "start_logits" not in question.fields or backend == "eager":
                        what = f"question {number}, {backend}: {name}"
                        try:
                            match(found[name], expected[name], question, what, self.table.tolerance)
                        except AssertionError:
                            # Machines add in other orders: what is off must be no farther from float64 than theirs is.
                            wide = ask(copy.deepcopy(theirs).double(), widened(question, torch.float64), "eager")[name]
                            off = largest_error(expected[name], wide, question)
                            match(found[name], wide, question, f"{what}, beside float64", off)
            assert [k for k in filled(found) if k not in SHOWN or k in expected] == filled(expected)

    @over(Table.varied)
    def test_variants_saved_as_they_were(self, case: Case, tmp_path: Path) -> None:
        self.test_saved_as_it_was(case, tmp_path)

    @over(Table.plain)
    def test_saved_as_it_was(self, case: Case, tmp_path: Path) -> None:
        """Keys, bytes and config; and no key of the config is a stranger."""
        built = build(case)
        assert not built.ours.config.unknown
        check_round_trip(built.folder, built.ours, tmp_path / "again")

    @over(Table.taught)
    def test_trains(self, case: Case) -> None:
        built = build(case)
        inputs = case.lesson()
        assert inputs is not None
        head = case.architecture
        trains(built.again(case), inputs, rate=head.rate, unused=head.unused)

    @over(Table.counting)
    def test_labels_of_several_batches(self, case: Case) -> None:
        """``num_items_in_batch`` is what the sum is divided by."""
        built, inputs = build(case), case.lesson()
        assert inputs is not None
        with torch.no_grad():
            for number in (7, torch.tensor(11)):
                # Not asked of the reference: encoder-decoders of it take the number and read it nowhere.
                expected = built.theirs(**inputs).loss * built.ours.loss_items(inputs) / number
                close(built.ours(**inputs, num_items_in_batch=number).loss, expected)

    @over(Table.each)
    def test_bfloat16(self, case: Case) -> None:
        small = self.table.case(case.head, case.variant, 0.05)
        built = build(small)
        ours, theirs = built.again(small, dtype="bfloat16"), halved(built.theirs)
        # Losses alone are not asked for: the reference matches boxes in float32 only.
        for question in [q for q in small.questions() if q.fields != ("loss",)][:3]:
            fields = [f for f in question.fields if "hidden_states" not in f and "attentions" not in f]
            half = {
                k: v.bfloat16() if isinstance(v, torch.Tensor) and v.is_floating_point() and "label" not in k else v
                for k, v in question.inputs.items()
            }
            question = Question(half, tuple(fields), question.real)
            # The reference's own two implementations round apart, more so where norms follow upon branches: like is
            # compared with like, if the reference has both.
            parts = [m for m in theirs.modules() if isinstance(m, transformers.PreTrainedModel)]
            own = {"eager": "eager", "sdpa": "sdpa" if all(m._supports_sdpa for m in parts) else "eager"}
            for backend, tolerance in (("eager", self.table.half), ("sdpa", self.table.half + 3e-2)):
                expected = ask(theirs, question, own[backend])
                found = ask(ours, question, backend)
                for name in fields:
                    try:
                        match(found[name], expected[name], question, f"{backend}: {name}", tolerance)
                    except AssertionError:
                        # Native matrices round once, programs not at all on the way: they may be nearer to the truth.
                        exact = ask(copy.deepcopy(theirs).float(), widened(question), own[backend])[name]
                        off = (
                            largest_error(expected[name], exact, question) + 2**-8
                        )  # the last rounding is everybody's own
                        match(found[name], exact, question, f"{backend}: {name}, beside float32", off)

    @over(Table.more_fed)
    def test_cached_equals_uncached_in_variants(self, case: Case) -> None:
        self.test_cached_equals_uncached(case)

    @over(Table.first_fed)
    @torch.no_grad()
    def test_cached_equals_uncached(self, case: Case) -> None:
        built = build(case)
        feed = case.writer.feed(built.theirs.config)
        expected = theirs_of(built)(**feed.whole()).logits
        for backend in BACKENDS:
            built.ours.set_attn_implementation(backend)
            near = self.table.tolerance
            close(built.ours(**feed.whole()).logits, expected, f"{backend}, whole", near)
            close(built.ours(**feed.whole(), use_cache=False).logits, expected, f"{backend}, without a cache", near)
            for pieces in PIECES if backend == "sdpa" else PIECES[:1]:
                close(in_pieces(built.ours, feed, pieces), expected, f"{backend}, in pieces of {pieces}", near)
        if feed.name == "input_ids":
            close(
                built.ours(**feed.whole(), logits_to_keep=2).logits,
                expected[:, -2:],
                "the last two",
                self.table.tolerance,
            )
            chosen = torch.zeros(expected.shape[:2], dtype=torch.bool)
            chosen[:, [1, -2]] = True
            for keep in (torch.tensor([4, -1, 0]), torch.tensor([[3, 1]] * len(chosen)), chosen):
                some = theirs_of(built)(**feed.whole(), logits_to_keep=keep).logits
                close(built.ours(**feed.whole(), logits_to_keep=keep).logits, some, "some", self.table.tolerance)

    @over(Table.more_written)
    def test_variants_write_the_same_tokens(self, case: Case) -> None:
        self.test_writes_the_same_tokens(case)

    @over(Table.first_written)
    def test_writes_the_same_tokens(self, case: Case) -> None:
        """Greedy and drawn, ragged rows together and each alone, by ``generate`` and by the engine."""
        built, writer = build(case), case.writer
        settings = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0}
        drawn = {**settings, "do_sample": True, "temperature": 1.3, "top_k": 0}
        for asked in (settings, drawn) if case.variant == "plain" else (settings,):
            torch.manual_seed(3)
            expected = generate(theirs_of(built), **writer.together(), **asked)
            torch.manual_seed(3)
            found = built.ours.generate(**writer.together(), **asked)
            assert found.tolist() == writer.given_back(expected).tolist(), asked
        # No token twice: an answer is a ranking, and a small mistake changes it.
        settings |= {"no_repeat_ngram_size": 1, "min_new_tokens": 5}
        rows = writer.alone()
        alone = [writer.written(row, generate(theirs_of(built), **row, **settings)) for row in rows]
        prompts = [writer.prompt(row) for row in rows]
        answers = omniform.Engine(built.ours, memory="8MB").generate_batch(prompts, [settings] * len(rows))
        assert [list(a.tokens) for a in answers] == alone
        if case.variant == "plain":
            # In another order, in pieces, and twice, so that beginnings are known; with guesses.
            engine = omniform.Engine(built.ours, memory="8MB", max_tokens_per_step=5, block_size=4)
            for guesses in ({}, {"prompt_lookup_num_tokens": 2}):
                answers = engine.generate_batch(prompts[::-1], [{**settings, **guesses}] * len(rows))
                assert [list(a.tokens) for a in answers[::-1]] == alone, guesses
        if all(isinstance(prompt, list) for prompt in prompts):
            batch = built.ours.generate_batch(prompts, **settings)
            assert [list(a.generated_tokens) for a in batch.values()] == alone

    @over(Table.beyond_base)
    @torch.no_grad()
    def test_base_and_head_load_one_another(self, case: Case, tmp_path: Path) -> None:
        first = self.table.case(next(iter(self.table.heads)))
        base, head = build(first), build(case)
        question = first.questions()[0]
        question = Question(question.inputs, question.fields[:1], question.real)
        name = question.fields[0]
        made, report = case.architecture.load(base.folder, output_loading_info=True, **case.architecture.asks.config)
        own = getattr(transformers, case.architecture.reference)
        assert not report.unexpected
        held = load_file(base.folder / "model.safetensors")
        assert not {k for k in report.fresh if k in held}
        # Or it stands on none, or does without the last norm: backbones.
        alike = made.base_model is not made and not any("norm" in key for key in report.unused)
        if alike and len(made.accepts() & base.ours.accepts() & question.inputs.keys()) == len(question.inputs):
            close(
                ask(made.base_model, question, "eager")[name],
                ask(base.theirs, question, "eager")[name],
                "head from base",
            )
        back = first.architecture.load(head.folder)
        again = own.from_pretrained(head.folder).eval().base_model
        if type(again) is type(base.theirs):
            close(ask(back, question, "eager")[name], ask(again, question, "eager")[name], "base from head")

    @over(Table.itself)
    def test_old_spellings(self, case: Case, tmp_path: Path) -> None:
        """Old names of keys; every head's base with its prefix and without."""
        t = self.table
        for head in [h for h in t.heads if t.spellings]:
            built = build(t.case(head))
            tensors = load_file(built.folder / "model.safetensors")
            for name, spell in t.spellings.items():
                folder = tmp_path / f"{head} {name}".replace(" ", "-")
                folder.mkdir()
                (folder / "config.json").write_text((built.folder / "config.json").read_text())
                renamed = {spell(key): tensor for key, tensor in tensors.items()}
                save_file(renamed, folder / "model.safetensors", {"format": "pt"})
                again, report = t.heads[head].load(folder, output_loading_info=True)
                assert not report.fresh and not report.unexpected, (head, name)
                question = t.case(head).questions()[0]
                found, expected = ask(again, question, "eager"), ask(built.theirs, question, "eager")
                for one in question.fields[:1]:
                    match(found[one], expected[one], question, f"{head}, {name}: {one}")

    @over(Table.itself)
    def test_every_reference_field_is_accounted_for(self, case: Case) -> None:
        t = self.table
        assert not unaccounted(t.model_type, t.config_class or t.config, **t.given)  # type: ignore[arg-type]

    @over(Table.itself)
    def test_defaults_are_the_references(self, case: Case) -> None:
        t = self.table
        assert wrong_defaults(t.model_type, t.config_class or t.config).keys() == t.derived, wrong_defaults(
            t.model_type, t.config_class or t.config
        )  # type: ignore[arg-type]
