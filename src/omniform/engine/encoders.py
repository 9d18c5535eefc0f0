"""What encoders made, kept by content: a picture or a sound that comes again is not encoded again.

Two kinds are kept. A decoder that reads pictures among its tokens takes *features*, vectors in the places of its
placeholders. An encoder-decoder takes a *memory*: the keys and values of its cross-attention, which lie in paged state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Generic, TypeVar

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.batch import Item
from omniform.core.context import Memory
from omniform.core.errors import InputError
from omniform.core.state import mixers
from omniform.engine.adapters import Adapters
from omniform.engine.block_pool import BlockPool, BlockTable, Content
from omniform.engine.paged_state import MEMORY, PagedState
from omniform.engine.request import NAMELESS, Placed, Prompt, Request, Row
from omniform.engine.together import Together
from omniform.engine.weights import Weights

T = TypeVar("T")

AHEAD = 16
"""How many items are encoded together before it is their requests' turn: more would keep the first answer waiting."""


def digest(inputs: Mapping[str, Tensor], kind: str = "") -> Content:
    """A digest of some tensors: what kind of thing they are, names, dtypes, shapes and bytes."""
    whole = blake2b(kind.encode(), digest_size=16)
    for name in sorted(inputs):
        tensor = inputs[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.digest()


@dataclass(slots=True)
class Features:
    """The vectors that stand for one item. Shape: [length, D]."""

    vectors: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self.vectors.numel() * self.vectors.element_size()


@dataclass(slots=True)
class MemoryEntry:
    """Where one memory's keys and values lie.

    Attributes:
        table: its blocks.
        length: how many tokens it has.
        decoder_prompts: the tokens that an answer to it begins with, by the options they depend on.
    """

    table: BlockTable
    length: int
    decoder_prompts: dict[str, tuple[int, ...]] = field(default_factory=dict)


class ContentCache(Generic[T]):
    """Values by content. Those that a request holds stay; the others stay until room is needed."""

    def __init__(self) -> None:
        self._values: dict[Content, T] = {}
        self._holders: dict[Content, int] = {}
        self._idle: OrderedDict[Content, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, content: Content) -> T:
        return self._values[content]

    def get(self, content: Content) -> T | None:
        """The value, or None if it is not kept."""
        return self._values.get(content)

    def __contains__(self, content: Content) -> bool:
        return content in self._values

    @property
    def held(self) -> int:
        """Values that requests hold."""
        return len(self._values) - len(self._idle)

    def busy(self) -> dict[Content, T]:
        """The values that requests hold."""
        return {content: value for content, value in self._values.items() if content not in self._idle}

    def idle(self) -> list[T]:
        """The values that no request holds."""
        return [self._values[content] for content in self._idle]

    def add(self, content: Content, value: T) -> None:
        """Keep a value; nobody holds it yet."""
        self._values[content] = value
        self._holders[content] = 0
        self._idle[content] = None

    def hold(self, content: Content) -> T:
        """Keep a value from being thrown out until :meth:`release`."""
        self._holders[content] += 1
        self._idle.pop(content, None)
        return self._values[content]

    def release(self, content: Content) -> None:
        """Undo one :meth:`hold`."""
        self._holders[content] -= 1
        if not self._holders[content]:
            self._idle[content] = None

    def evict(self) -> T | None:
        """Forget the least recently used value that nobody holds; None if there is none."""
        if not self._idle:
            return None
        content, _ = self._idle.popitem(last=False)
        del self._holders[content]
        return self._values.pop(content)


class Encoders:
    """Makes requests ready for the decoder, and keeps what that took.

    Args:
        model: whose encoders to run.
        state: where memories are written.
        pool: the blocks for memories; None for a decoder alone.
        features_budget: bytes of features that may be kept.
        weights: what is made with one version of them is of no use to later ones.
        adapters: what is made with one of them is of no use to others.
        together: the processes that hold the model.
    """

    def __init__(
        self,
        model: Generative,
        state: PagedState,
        pool: BlockPool | None,
        features_budget: int,
        weights: Weights,
        adapters: Adapters,
        together: Together,
    ) -> None:
        self.features: ContentCache[Features] = ContentCache()
        self.memories: ContentCache[MemoryEntry] = ContentCache()
        self.runs = 0
        self.hits = 0
        self.features_bytes = 0
        self._foreseen: set[Content] = set()  # encoded ahead of its first request's turn
        self._model = model
        self._state = state
        self._pool = pool
        self._budget = features_budget
        self._weights = weights
        self._adapters = adapters
        self._together = together
        self._mixers = mixers(model.decoder)

    @torch.inference_mode()
    def prepare(self, request: Request) -> bool:
        """Encode what a request brings, unless that is known, and find out where it goes.

        Returns:
            False if there is no room for it while other requests hold theirs.

        Raises:
            InputError: its inputs do not fit together, or could never be kept.
        """
        prompt, contents = request.prompt, self._contents(request)
        with self._adapters.whole(request):
            if prompt.encoder:
                return request.memory is not None or self._prepare_memory(request, contents[0])
            return bool(request.rows and len(request.media) == len(prompt.items)) or self._prepare_items(request)

    @torch.inference_mode()
    def foresee(self, waiting: Sequence[Request]) -> None:
        """Encode what the first of those who wait bring, all together: each then finds it by content.

        What cannot be encoded so is left to :meth:`prepare`, which tells whose fault it is.

        Args:
            waiting: in the order in which they will be made ready.
        """
        if self._pool is not None or self.features_bytes > self._budget // 2:
            return
        ahead: dict[Content, Item] = {}
        asked: list[Request] = []
        for request in waiting:
            if len(ahead) >= AHEAD or request.adapter != waiting[0].adapter:
                break
            own = dict(zip(self._contents(request), request.prompt.items, strict=True))
            fresh = {c: item for c, item in own.items() if c not in self.features}
            if fresh:
                asked.append(request)
                ahead |= fresh
        if len(asked) < 2:
            return
        try:
            with self._adapters.whole(asked[0]):
                made = self._encoded(ahead)
        except Exception:  # whatever it is: it is told to whom it belongs, when that one is made ready
            return
        for content, features in made.items():
            if self.features_bytes + features.nbytes <= self._budget:
                self._keep(content, features)
                self._foreseen.add(content)

    def _contents(self, request: Request) -> tuple[Content, ...]:
        """The digests of what a request's encoders read."""
        if not request.contents:
            prompt = request.prompt
            version = f"{self._weights.version} {request.adapter} "
            items = tuple(digest(i.inputs, f"{version}{i.modality}{i.facts}") for i in prompt.items)
            request.contents = (digest(prompt.encoder, version),) if prompt.encoder else items
        return request.contents

    def _encoded(self, missing: Mapping[Content, Item]) -> dict[Content, Features]:
        """What some items became, those of a kind in one go."""
        made: dict[Content, Features] = {}
        for kind in dict.fromkeys(item.modality for item in missing.values()):
            own = {c: item for c, item in missing.items() if item.modality == kind}
            made |= dict(zip(own, map(Features, self._model.encode_items(list(own.values()))), strict=True))
        self.runs += len(missing)
        return made

    def release(self, request: Request) -> None:
        """Undo :meth:`prepare`: the request needs its encoders' work no longer, or not now."""
        for content in request.media:
            self.features.release(content)
        request.media = ()
        if request.memory is not None:
            self.memories.release(request.memory)
            request.memory = None

    @property
    def idle_blocks(self) -> int:
        """Blocks of memories that no request holds."""
        return sum(len(entry.table.blocks) for entry in self.memories.idle())

    def evict_all(self) -> None:
        """Forget everything that no request holds."""
        while (features := self.features.evict()) is not None:
            self.features_bytes -= features.nbytes
        while self._evict_memory():
            pass

    def _prepare_items(self, request: Request) -> bool:
        items, contents = request.prompt.items, request.contents
        if request.room > self._budget - sum(f.nbytes for c, f in self.features.busy().items() if c not in contents):
            return False
        missing = {c: item for c, item in zip(contents, items, strict=True) if c not in self.features}
        fresh = self._encoded(missing)
        if not request.rows:
            self.hits += len(items) - len(missing) - len(self._foreseen & {*contents})
            self._foreseen -= {*contents}
        request.room = sum((fresh.get(c) or self.features[c]).nbytes for c in {*contents})
        self._refuse_if_too_big(request.room)
        held: list[Content] = []
        try:
            # Those that are known first, so that making room for the others does not throw them out.
            for content in sorted(contents, key=lambda c: c not in self.features):
                if content not in self.features and not self._keep(content, fresh[content]):
                    return False
                self.features.hold(content)
                held.append(content)
            if not request.rows:
                self._lay_out(request)
            request.media, held = contents, []
        finally:
            for content in held:
                self.features.release(content)
        return True

    def _lay_out(self, request: Request) -> None:
        """Find out what stands where in a prompt, and begin its row."""
        prompt, items = request.prompt, request.prompt.items
        lengths = [self.features[c].vectors.shape[0] for c in request.contents]
        spans = self._model.spans(prompt.tokens, items, lengths)
        by_kind: dict[str, list[Content]] = {}
        for item, content in zip(items, request.contents, strict=True):
            by_kind.setdefault(item.modality, []).append(content)
        found = [Placed(s.start, s.length, by_kind[s.modality][s.item], offset=s.offset) for s in spans]
        for start, vectors in prompt.vectors:
            found.append(Placed(start, len(vectors), digest({"vectors": vectors}), vectors))
        request.placed = tuple(found)
        told = prompt.layout
        request.layout = self._model.layout(prompt.tokens, items, spans) if told is None else told
        request.rows = [Row(list(prompt.tokens), len(prompt.tokens), nameless=prompt.tokens.count(NAMELESS))]

    def vectors(self, placed: Placed) -> Tensor:
        """What stands in the place of tokens. Shape: [length, D]."""
        return self.features[placed.content].vectors if placed.vectors is None else placed.vectors

    def _refuse_if_too_big(self, features: int) -> None:
        if features > self._budget:
            raise InputError(
                "the features of the request's pictures do not fit into the engine's memory",
                where="memory",
                expected=f"at most {self._budget} bytes",
                found=f"{features} bytes",
                remedy="Give the engine more memory.",
            )

    def _keep(self, content: Content, features: Features) -> bool:
        while self.features_bytes + features.nbytes > self._budget:
            old = self.features.evict()
            if old is None:
                return False
            self.features_bytes -= old.nbytes
        self.features.add(content, features)
        self.features_bytes += features.nbytes
        return True

    def _prepare_memory(self, request: Request, content: Content) -> bool:
        prompt, options = request.prompt, repr(sorted(request.prompt.options.items(), key=str))
        known = self.memories.get(content)
        opened = bool(prompt.tokens or request.rows)
        if known is None or not (opened or options in known.decoder_prompts):
            if known is None and self._pool is not None and request.room > self._pool.available + self.idle_blocks:
                return False
            memory = self._together.encode(prompt.encoder)
            assert memory is not None, "a model with encoder inputs must encode them"
            self.runs += 1
            if known is None:
                known = self._write(memory, request)
                if known is None:
                    return False
                self.memories.add(content, known)
            if not opened:
                known.decoder_prompts[options] = tuple(self._model.decoder_prompt(memory, prompt.options)[0].tolist())
        elif not request.rows:
            self.hits += 1
        if not request.rows:
            tokens = prompt.tokens or known.decoder_prompts[options]
            request.rows = [Row(list(tokens), len(tokens), source=_source(prompt))]
        self.memories.hold(content)
        request.memory, request.memory_length = content, known.length
        return True

    def _write(self, memory: Memory, request: Request) -> MemoryEntry | None:
        """Put a memory's keys and values into paged state; None if there is no room for them now."""
        assert self._pool is not None, "an encoder-decoder's state has a pool for memories"
        real = memory.padding[0] if memory.padding is not None else torch.ones_like(memory.hidden[0, :, 0]).bool()
        length = int(real.sum())
        request.room = blocks = -(-length // self._pool.size)
        if blocks > self._pool.blocks:
            raise InputError(
                "what the encoder made does not fit into the engine's memory",
                where="memory",
                expected=f"at most {self._pool.blocks * self._pool.size} tokens",
                found=f"{length} tokens",
                remedy="Give the engine more memory.",
            )
        while blocks > self._pool.available:
            if not self._evict_memory():
                return None
        entry = MemoryEntry(BlockTable(self._pool.size), length)
        self._pool.grow(entry.table, blocks, blocks)
        ranges = entry.table.slot_ranges(0, length)
        self._state.begin(MEMORY, ranges)
        unpadded = memory if memory.padding is None else Memory(memory.hidden[:, real])
        self._together.remembered(unpadded, ranges)
        for mixer in self._mixers:
            mixer.remember(unpadded, self._state)
        return entry

    def _evict_memory(self) -> bool:
        old = self.memories.evict()
        if old is not None and self._pool is not None:
            self._pool.release(old.table)
        return old is not None


def _source(prompt: Prompt) -> tuple[int, ...]:
    """The tokens that an encoder reads, if tokens are what it reads."""
    ids, mask = prompt.encoder.get("input_ids"), prompt.encoder.get("attention_mask")
    if ids is None:
        return ()
    return tuple((ids[0] if mask is None or mask.shape != ids.shape else ids[0][mask[0] != 0]).tolist())
