"""``omniform serve``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from omniform.core.errors import InputError

if TYPE_CHECKING:
    from omniform.cli.main import Parser
    from omniform.serve.config import Limits, ModelSource


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Answer over HTTP, as OpenAI's API does, and with a page to chat on."
    own = commands.add_parser("serve", help=text, description=text, allow_abbrev=False)
    own.add_argument(
        "models", nargs="*", metavar="MODEL", help="a folder or a Hub id, or NAME=FOLDER; the bundled one by default"
    )
    own.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    own.add_argument("--port", type=int, default=8000, help="(%(default)s); 0 for any that is free")
    own.add_argument("--uds", metavar="FILE", help="listen at a unix socket instead")
    own.add_argument("--tls-cert", metavar="FILE", help="a certificate: answer over HTTPS")
    own.add_argument("--tls-key", metavar="FILE", help="its key")
    own.add_argument("--dtype", default="auto", help="of the weights: bfloat16, int8, int4, auto ...")
    own.add_argument("--quantize", metavar="FORMAT", help="fewer bits, made at load: int8, int4, nf4, hqq-4 ...")
    own.add_argument("--memory", metavar="SIZE", help="of one model's engine: 4GB, or auto")
    own.add_argument("--cache-dtype", metavar="DTYPE", help="how keys and values are kept: int8, int4 ...")
    own.add_argument("--models-memory", metavar="SIZE", help="of the weights of all models that are loaded")
    own.add_argument("--idle", type=float, metavar="SECONDS", help="unload a model that nobody asks for so long")
    own.add_argument("--lazy", action="store_true", help="load no model before it is asked for")
    own.add_argument(
        "--adapter", action="append", default=[], metavar="MODEL:NAME=FOLDER", help="a low-rank adapter of a model"
    )
    own.add_argument("--api-keys", action="append", default=[], metavar="FILE", help="lines of NAME:KEY that may ask")
    own.add_argument(
        "--allow-url", action="append", default=[], metavar="PREFIX", help="addresses of pictures that may be fetched"
    )
    own.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="pages of others that may call")
    own.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="divide layers among N processes, or GPUs, here"
    )
    own.add_argument(
        "--pipeline-parallel", type=int, default=1, metavar="N", help="have layers lie in N processes, or GPUs, in turn"
    )
    own.add_argument(
        "--data-parallel", type=int, default=1, metavar="N", help="N processes here that each have the models"
    )
    own.add_argument("--max-running", type=int, metavar="N", help="requests that run at once (256)")
    own.add_argument("--max-waiting", type=int, metavar="N", help="requests that wait for their turn (1024)")
    own.add_argument("--max-body", metavar="SIZE", help="of a request (64MiB)")
    own.add_argument("--timeout", type=float, metavar="SECONDS", help="that a request may take (3600)")
    own.add_argument("--grace", type=float, metavar="SECONDS", help="that requests have when the server ends (30)")
    own.add_argument(
        "--allow-special-tokens", action="store_true", help="special tokens that clients type are no mere text"
    )
    own.add_argument("--log-prompts", action="store_true", help="write what clients ask into the log")
    cluster = own.add_argument_group("cluster", "Replicas on a Ray cluster (extra ray).")
    cluster.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS", help="of a cluster; of this machine's by default"
    )
    cluster.add_argument("--replicas", type=int, metavar="N", help="how many, or at least (1)")
    cluster.add_argument("--max-replicas", type=int, metavar="N", help="have more, up to so many, when many ask")
    cluster.add_argument("--replica-cpus", type=float, metavar="N", help="cores that each process of one takes (1)")
    cluster.add_argument(
        "--replica-gpus", type=float, metavar="N", help="GPUs that it takes; 1 where the cluster has any"
    )
    own.set_defaults(work=work, command=own)


def work(given: argparse.Namespace) -> None:
    """Serve until told to stop."""
    from omniform.serve.config import ServeConfig
    from omniform.serve.running import serve

    _check_cluster(given)
    config = ServeConfig(
        models=tuple(_sources(given.models, given.adapter)),
        dtype=given.dtype,
        quantize=given.quantize,
        memory=given.memory,
        cache_dtype=given.cache_dtype,
        models_memory=given.models_memory,
        idle_seconds=given.idle,
        preload=not given.lazy,
        allow_urls=tuple(given.allow_url),
        cors=tuple(given.cors),
        keys=tuple(given.api_keys),
        log_prompts=given.log_prompts,
        tensor_parallel=given.tensor_parallel,
        pipeline_parallel=given.pipeline_parallel,
        data_parallel=given.data_parallel,
        typed_tokens=given.allow_special_tokens,
        limits=_limits(given),
    )
    if given.ray is not None:
        from omniform.serve.ray.running import serve_on_ray

        serve_on_ray(
            config, given.ray or None, given.host, given.port, 1 if given.replicas is None else given.replicas,
            given.max_replicas, 1.0 if given.replica_cpus is None else given.replica_cpus, given.replica_gpus,
        )  # fmt: skip
        return
    serve(config, host=given.host, port=given.port, uds=given.uds, tls_cert=given.tls_cert, tls_key=given.tls_key)


def _check_cluster(given: argparse.Namespace) -> None:
    """Refuse what is not for a cluster, and what is for one alone.

    Raises:
        InputError: an option of the other kind.
    """
    names: tuple[str, ...] = ("uds", "tls_cert", "tls_key")
    why, remedy = "Ray's proxy does not answer so", "Leave it out."
    if given.ray is not None and given.data_parallel > 1:
        raise InputError(
            "on a cluster there are replicas", where="--data-parallel", remedy=f"--replicas {given.data_parallel}."
        )
    if given.ray is None:
        names, why = ("replicas", "max_replicas", "replica_cpus", "replica_gpus"), "replicas are on a cluster"
        remedy = "Add --ray."
    wrong = next((name for name in names if vars(given)[name] is not None), None)
    if wrong is not None:
        raise InputError(why, where=f"--{wrong.replace('_', '-')}", remedy=remedy)
    for name in ("replica_cpus", "replica_gpus"):
        found = vars(given)[name]
        if found is not None and not (0 <= found < 1e6):
            raise InputError("no such number", where=f"--{name.replace('_', '-')}", found=found)


def _limits(given: argparse.Namespace) -> Limits:
    """The limits that are named, over the usual ones."""
    from omniform.engine.memory import parse_memory
    from omniform.serve.config import Limits

    named = {
        "running": given.max_running, "waiting": given.max_waiting, "body_bytes": parse_memory(given.max_body),
        "seconds": given.timeout, "grace": given.grace,
    }  # fmt: skip
    return Limits(**{name: value for name, value in named.items() if value is not None})


def _sources(models: list[str], adapters: list[str]) -> list[ModelSource]:
    """Models by name, with their adapters."""
    from omniform.hub.bundled import bundled_checkpoint
    from omniform.serve.config import ModelSource

    sources = []
    for one in models or [str(bundled_checkpoint())]:
        name, equals, place = one.partition("=")
        if not equals:
            name, place = (Path(one).name if Path(one).exists() else one), one
        sources.append(ModelSource(name=name, source=place, adapters=_adapters(name, adapters)))
    known = {one.name for one in sources}
    for text in adapters:
        if text.partition("=")[0].rpartition(":")[0] not in known:
            raise InputError(
                "an adapter of no model that is served", where="--adapter", expected="MODEL:NAME=FOLDER", found=text
            )
    return sources


def _adapters(model: str, told: list[str]) -> dict[str, str]:
    found = {}
    for text in told:
        named, equals, place = text.partition("=")
        base, _, name = named.rpartition(":")
        if base == model and equals and name and place:
            found[name] = place
    return found
