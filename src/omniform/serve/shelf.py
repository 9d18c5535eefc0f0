"""The models of a server: loaded when first asked for, kept while there is room, unloaded when nobody asks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import OmniformError
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.engine.memory import parse_memory
from omniform.export.quantizing import on_loading
from omniform.hub.auto_inputs import AutoProcessor
from omniform.hub.checkpoint import is_exported, load_as_saved
from omniform.hub.plan import plan
from omniform.inputs.replies.detect import format_of
from omniform.inputs.replies.format import PLAIN, ReplyFormat
from omniform.serve.config import ModelSource, ServeConfig
from omniform.serve.crafts import Crafts, stacked
from omniform.serve.errors import APIError
from omniform.serve.showing import Spelling, tokenizer_of
from omniform.serve.together import Others, Processes, Start, led, load_together
from omniform.serve.typed import Typed

log = logging.getLogger("omniform.serve")


@dataclass(slots=True, eq=False)
class Loaded:
    """A model that is in memory.

    Attributes:
        origin: what it was loaded from.
        model: it.
        reader: its processor or tokenizer.
        engine: writes with it; None where it does not write.
        crafts: what it does besides.
        nbytes: of its weights.
        template: the source of its chat template; "" without one.
        form: how its answers are written.
        typed: makes text of its special tokens where clients type them.
        others: the processes that hold it together with this one; None where this one holds all of it.
        users: requests that compute with it.
        used: when the last one came, in seconds of ``time.monotonic``.
        spelling: what its tokens are.
    """

    origin: ModelSource
    model: Model
    reader: Reader
    engine: Engine | None
    crafts: Crafts
    nbytes: int
    template: str = ""
    form: ReplyFormat = PLAIN
    typed: Typed = field(default_factory=Typed)
    others: Others | None = None
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    spelling: Spelling = field(init=False)

    def __post_init__(self) -> None:
        self.spelling = Spelling(self.reader, self.form.markers)

    def writes(self) -> Engine:
        """What writes with it.

        Raises:
            APIError: nothing does.
        """
        if self.engine is None:
            raise APIError(
                400, f"the model {self.origin.name!r} does not write text", param="model", code="model_does_not_write"
            )
        return self.engine

    def close(self) -> None:
        """Let go of it."""
        self.crafts.close()
        if self.engine is not None:
            self.engine.close()
        if self.others is not None:
            self.others.end()


Load = Callable[[ModelSource], Loaded]


class Shelf:
    """The models of a server by name.

    Args:
        config: which, and how they are loaded.
        load: loads one, in a thread; :func:`load_model` by default.
    """

    def __init__(self, config: ServeConfig, load: Load | None = None) -> None:
        self._config = config
        self._load: Load = load or (lambda source: load_model(source, config))
        self._sources = {one.name: one for one in config.models}
        self._loaded: dict[str, Loaded] = {}
        self._loading: dict[str, asyncio.Task[Loaded]] = {}
        self._locks = {name: asyncio.Lock() for name in self._sources}
        self._room = asyncio.Lock()
        self.created = int(time.time())

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """What there is, loaded or not."""
        return tuple(self._sources.values())

    def loaded(self) -> Iterator[Loaded]:
        """What is in memory."""
        yield from list(self._loaded.values())

    def named(self, name: str | None) -> tuple[ModelSource, str | None]:
        """A model, and the adapter of it that a name asks for.

        Raises:
            APIError: there is no such model, or it has no such adapter.
        """
        if not name:
            return next(iter(self._sources.values())), None
        if name in self._sources:
            return self._sources[name], None
        base, _, adapter = name.rpartition(":")
        source = self._sources.get(base)
        if source is None or adapter not in source.adapters:
            raise APIError(404, f"the model {name!r:.200} does not exist", param="model", code="model_not_found")
        return source, adapter

    @contextlib.asynccontextmanager
    async def use(self, source: ModelSource) -> AsyncIterator[Loaded]:
        """Have a model in memory for as long as a request computes with it.

        Raises:
            APIError: there is no room for it while others are at work, or it cannot be loaded.
        """
        one = await self._get(source)
        one.users += 1
        one.used = time.monotonic()
        try:
            yield one
        finally:
            one.users -= 1
            one.used = time.monotonic()

    async def _get(self, source: ModelSource) -> Loaded:
        one = self._loaded.get(source.name)
        if one is not None:
            return one
        # Loading goes on where whoever asked for it goes away: its thread cannot be stopped, and others may wait.
        loading = self._loading.get(source.name)
        if loading is None:
            loading = self._loading[source.name] = asyncio.create_task(self._brought(source))
            loading.add_done_callback(lambda done: self._came(source, done))
        return await asyncio.shield(loading)

    def _came(self, source: ModelSource, done: asyncio.Task[Loaded]) -> None:
        del self._loading[source.name]
        if not done.cancelled():
            done.exception()  # was told to whoever waited, if anybody still did

    async def _brought(self, source: ModelSource) -> Loaded:
        async with self._locks[source.name]:
            one = self._loaded.get(source.name)
            if one is None:
                async with self._room:
                    await self._make_room(source)
                    one = await self._read(source)
                    self._loaded[source.name] = one
        return one

    async def _read(self, source: ModelSource) -> Loaded:
        started = time.monotonic()
        try:
            one = await asyncio.to_thread(self._load, source)
        except Exception as error:  # whatever it was, it may be otherwise the next time
            log.error("the model %r cannot be loaded: %s", source.name, error, exc_info=not _is_said(error))
            raise APIError(
                503, f"the model {source.name!r} cannot be loaded; the server's log says why", code="model_unusable"
            ) from error
        log.info("loaded %s in %.1f s", source.name, time.monotonic() - started)
        return one

    async def reload(self, name: str) -> None:
        """Load a model anew beside itself, and let new requests go there; those that run end where they are.

        Raises:
            APIError: there is no such model, or it cannot be loaded: then the old one stays.
        """
        source, _ = self.named(name)
        async with self._locks[source.name], self._room:
            fresh = await self._read(source)
            old = self._loaded.get(source.name)
            self._loaded[source.name] = fresh
        if old is not None:
            while old.users:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(old.close)

    async def reload_all(self) -> None:
        """Load anew what is in memory."""
        for one in list(self.loaded()):
            with contextlib.suppress(APIError):  # said in the log; the old one stays
                await self.reload(one.origin.name)

    async def _make_room(self, source: ModelSource) -> None:
        """Unload what nobody uses, the longest unused first, until the next one fits."""
        budget = parse_memory(self._config.models_memory)
        if budget is None:
            return
        need = await asyncio.to_thread(_weights, source, self._config)
        while sum(one.nbytes for one in self._loaded.values()) + need > budget:
            idle = min((one for one in self.loaded() if not one.users), key=lambda one: one.used, default=None)
            if idle is None:
                busy = bool(self._loaded)
                raise APIError(
                    503,
                    f"there is no room for the model {source.name!r}" + (" while others are at work" if busy else ""),
                    code="insufficient_memory",
                    headers={"Retry-After": "5"} if busy else {},
                )
            await self.unload(idle)

    async def unload(self, one: Loaded) -> None:
        """Let go of a model that nobody uses."""
        if self._loaded.get(one.origin.name) is one:
            del self._loaded[one.origin.name]
        await asyncio.to_thread(one.close)
        log.info("unloaded %s", one.origin.name)
        del one
        gc.collect()

    async def tend(self) -> None:
        """Unload, for ever, what was not used for as long as the settings say."""
        patience = self._config.idle_seconds
        while patience is not None:
            await asyncio.sleep(min(patience / 4, 30.0))
            for one in self.loaded():
                if not one.users and time.monotonic() - one.used > patience:
                    await self.unload(one)

    async def close(self) -> None:
        """Let go of all."""
        for one in self.loaded():
            await asyncio.to_thread(one.close)
        self._loaded.clear()


def _options(config: ServeConfig) -> dict[str, object]:
    """The keywords that models are loaded, and planned, with."""
    return {"dtype": config.dtype} if config.quantize is None else on_loading(config.quantize, config.dtype)


def _weights(source: ModelSource, config: ServeConfig) -> int:
    """Bytes that a model's weights will take."""
    if is_exported(source.source):
        return sum(path.stat().st_size for path in Path(source.source).expanduser().rglob("*.onnx*"))
    return plan(source.source, **_options(config)).weights  # type: ignore[arg-type] # they are its keywords


def load_model(source: ModelSource, config: ServeConfig, start: Start = Processes) -> Loaded:
    """Load a model, its reader and its adapters.

    Args:
        start: starts the other processes of a model that several hold.

    Raises:
        OmniformError: it is not there, or cannot be loaded.
    """
    options = _options(config)
    others: Others | None = None
    how = {"memory": config.memory, "cache_dtype": config.cache_dtype}
    stack = None if config.processes > 1 else stacked(source, options)
    if stack is not None:
        model = stack.transformers_model
        crafts = Crafts(source, model, stack, config.limits.seconds)
        return Loaded(source, model, cast(Reader, stack.tokenizer), None, crafts, model.get_memory_footprint())
    if config.processes > 1:
        model, others = load_together(
            source.source, config.tensor_parallel, config.pipeline_parallel, options, how, start
        )
    else:
        model = load_as_saved(source.source, **options)
    reader = cast(Reader, AutoProcessor.from_pretrained(source.source))
    crafts = Crafts(source, model, None, config.limits.seconds)
    engine = None
    if others is not None:
        engine = led(model, reader, others, how)
    elif isinstance(model, Generative) and model.can_generate() and _writes_text(model):
        engine = Engine(model, reader, memory=config.memory, cache_dtype=config.cache_dtype)
        for name, place in source.adapters.items():
            engine.load_adapter(place, name)
    if engine is None:
        return Loaded(source, model, reader, None, crafts, model.get_memory_footprint())
    template, tokenizer = reader.chat_template, tokenizer_of(reader)
    if isinstance(template, Mapping):
        template = template.get("tool_use", template.get("default"))
    template = template if isinstance(template, str) else ""
    form = format_of(template, {} if tokenizer is None else tokenizer.get_vocab())
    typed = Typed.of(tokenizer, template)
    nbytes = model.get_memory_footprint()
    return Loaded(source, model, reader, engine, crafts, nbytes, template, form, typed, others)


def _is_said(error: Exception) -> bool:
    """Whether an error's own words say enough."""
    return isinstance(error, (OmniformError, OSError, MemoryError))


def _writes_text(model: Model) -> bool:
    """Whether a model that writes is asked in text; others hear, or speak, and have doors of their own."""
    does = {*model.origin.architecture.tasks}
    return not does & {"text-to-waveform", "text-to-spectrogram", "speech-seq2seq"}
