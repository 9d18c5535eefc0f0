"""What a server is told when it is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from omniform.core.errors import InputError
from omniform.engine.memory import parse_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of anything one request may bring, and all of them together.

    Attributes:
        body_bytes: of a request of JSON, files within it included.
        upload_bytes: of a request that uploads files as they are.
        incoming_bytes: of all requests that are there at once.
        body_seconds: in which one must have come whole.
        headers: of a request.
        header_bytes: of all of them.
        address_bytes: of the address that it names.
        depth: of JSON.
        items: of JSON: all its values, and the commas in its texts.
        messages: in a chat.
        parts: of all its messages.
        tools: that may be called.
        stops: texts that end an answer.
        biases: tokens that are made likelier or less likely.
        answers: that one request may ask for (``n``, or prompts of a list).
        pixels: of all pictures of a request.
        sound_seconds: that a sound which is written down may last; a small file may claim many days.
        running: requests in the engine of a model at once; more wait.
        waiting: requests that wait; more are refused.
        seconds: that a request may take.
        grace: seconds that those that run have to end in, once the server is told to stop.
        fetches: addresses that are read at once.
        connections: at once; where there are more, those that ask nothing are closed.
        write_seconds: that a client may take to read a piece of a stream.
    """

    body_bytes: int = 64 << 20
    upload_bytes: int = 256 << 20
    incoming_bytes: int = 2 << 30
    body_seconds: float = 60.0
    headers: int = 100
    header_bytes: int = 64 << 10
    address_bytes: int = 8192
    depth: int = 64
    items: int = 1 << 20
    messages: int = 4096
    parts: int = 8192
    tools: int = 256
    stops: int = 64
    biases: int = 4096
    answers: int = 128
    pixels: int = 64 << 20
    sound_seconds: float = 4 * 3600.0
    running: int = 256
    waiting: int = 1024
    seconds: float = 3600.0
    grace: float = 30.0
    fetches: int = 4
    connections: int = 4096
    write_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise InputError("no such limit", where=name, expected="a number above 0", found=repr(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model by the name that clients call it by.

    Attributes:
        name: theirs.
        source: a folder, a file or a Hub id.
        adapters: folders or Hub ids of low-rank adapters by name; asked for as ``name:adapter``.
    """

    name: str
    source: str
    adapters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """A server's settings.

    Attributes:
        models: what it serves; the first answers where a request names none.
        dtype: of their weights.
        quantize: what these become as they are loaded, as ``omniform quantize --to`` names it.
        memory: of one model's engine: see :class:`~omniform.engine.engine.Engine`.
        cache_dtype: how its state is kept.
        models_memory: bytes that the weights of all loaded models may take together; None for what is free.
        idle_seconds: after which a model that nobody asks is unloaded; None for never.
        preload: whether the first model is loaded before the server says that it is ready.
        limits: of requests.
        allow_urls: beginnings of addresses that may be fetched for pictures and sounds; none by default.
        cors: origins of pages that may call; none by default.
        keys: files with API keys; with the environment's ``OMNIFORM_API_KEYS``. None at all: everybody may ask.
        log_prompts: whether the log holds what clients write.
        tensor_parallel: among how many processes of this machine each layer of the one model that is served is divided.
        pipeline_parallel: in how many processes, or groups of them, its layers lie, one after another.
        data_parallel: in how many processes of this machine, or groups of them, the models lie, each of which has all.
        typed_tokens: whether special tokens that clients type are tokens: then whoever writes a message can write
            those of others, and of the system.
    """

    models: tuple[ModelSource, ...]
    dtype: str = "auto"
    quantize: str | None = None
    memory: int | str | None = None
    cache_dtype: str | None = None
    models_memory: int | str | None = None
    idle_seconds: float | None = None
    preload: bool = True
    limits: Limits = field(default_factory=Limits)
    allow_urls: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    log_prompts: bool = False
    typed_tokens: bool = False
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("there is nothing to serve", where="models", expected="a model or more")
        names = [one.name for one in self.models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError("two models have one name", where="models", found=twice, remedy="Give names: NAME=FOLDER.")
        if self.models_memory is not None:
            parse_memory(self.models_memory)
        self._check_processes()

    @property
    def processes(self) -> int:
        """How many processes hold the model together."""
        return self.tensor_parallel * self.pipeline_parallel

    def _check_processes(self) -> None:
        for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InputError("no number of processes", where=name, expected="1 or more", found=repr(count))
        if self.processes == 1:
            return
        where = "tensor_parallel" if self.tensor_parallel > 1 else "pipeline_parallel"
        one = self.models[0]
        for what, there in (
            ("several models", len(self.models) > 1), ("adapters", bool(one.adapters)),
            ("a model that is unloaded when idle", self.idle_seconds is not None),
        ):  # fmt: skip
            if there:
                raise InputError(f"{what}: not in several processes", where=where, found=self.processes)
