"""``omniform map``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from omniform.cli.settings import drawing

if TYPE_CHECKING:
    from omniform.cli.main import Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    from omniform.cli.main import DTYPES_HELP, _add_cache, _add_writing

    text = "Answer every record of a dataset, each exactly once; run it again to go on where it was ended."
    own = commands.add_parser("map", help=text, description=text, allow_abbrev=False)
    own.add_argument("model", help="a folder or a Hub id")
    own.add_argument("dataset", help=".jsonl, .jsonl.gz, .csv, .parquet, or a folder of pictures, sounds or videos")
    own.add_argument("--out", required=True, metavar="FOLDER", help="of the results; a new one, or to go on in")
    own.add_argument(
        "--task", help="embed, or a pipeline's task; by default records are prompts, chats, or OpenAI's requests"
    )
    own.add_argument("--text", metavar="TEXT", help="the question to records that hold a picture and no prompt")
    own.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each with the model (%(default)s)")
    own.add_argument("--shard-size", type=int, metavar="N", help="records that are done, or begun again, together")
    own.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="when a worker dies, until one is blamed (%(default)s)",
    )
    own.add_argument("--keep-going", action="store_true", help="lines that are no records go to errors.jsonl")
    own.add_argument("--merge", action="store_true", help="write all results into results.jsonl at the end")
    own.add_argument("--media-root", action="append", default=[], metavar="FOLDER",
                     help="whose files records may name; the dataset's own by default")  # fmt: skip
    own.add_argument("--media-urls", choices=("none", "public", "any"), default="none",
                     help="addresses that records may name (%(default)s)")  # fmt: skip
    own.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="have the workers be actors of a Ray cluster; of this machine's where no address is named",
    )
    own.add_argument("--dtype", default="auto", help=DTYPES_HELP)
    own.add_argument("--memory", metavar="SIZE", help="of each worker's engine: 4GB, or auto")
    _add_cache(own)
    _add_writing(own)
    own.set_defaults(work=work, command=own)


def work(given: argparse.Namespace) -> int:
    """Answer what is not answered yet; 1 where some records could not be."""
    from omniform.cli.main import _settings
    from omniform.serve.mapping.job import WRITE, Job
    from omniform.serve.mapping.run import Asked, Hiring, run_map

    settings = _settings(given)
    settings = drawing(settings) if given.task in (None, WRITE) else settings
    seed = settings.pop("seed", None)
    job = Job(
        model=given.model,
        task=given.task or WRITE,
        folder="",
        settings=settings,
        text=given.text,
        seed=seed if isinstance(seed, int) else 0,
        dtype=given.dtype,
        memory=given.memory,
        cache_dtype=given.cache_dtype,
        urls=given.media_urls,
        roots=tuple(given.media_root),
    )
    ours: dict[str, Hiring] = {}
    if given.ray is not None:
        from omniform.serve.mapping.actors import actors

        ours["hiring"] = actors(given.ray or None)
    asked = Asked(
        workers=given.workers,
        retries=given.retries,
        shard=given.shard_size,
        lenient=given.keep_going,
        merge=given.merge,
        **ours,
    )
    return 1 if run_map(job, given.dataset, given.out, asked, task=given.task).faults else 0
