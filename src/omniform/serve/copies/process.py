"""A process behind the door: a server that listens at a unix socket, for the door alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI

from omniform.core.errors import InputError
from omniform.serve.accounts import account_of
from omniform.serve.app import create_app
from omniform.serve.calls import Message, scope_of
from omniform.serve.config import ServeConfig
from omniform.serve.copies.frames import call_in, config_of, read, said, written

log = logging.getLogger("omniform.serve")


class Answering:
    """Answers what the door asks, a connection for each request.

    Args:
        app: the server.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one."""
        try:
            frame = await read(reader)
            await self._answer(frame[0], scope_of(call_in(frame)), frame[1], reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            log.debug("the door went away", exc_info=True)
        finally:
            writer.close()

    async def _answer(
        self, told: Mapping[str, object], scope: Message, body: bytes,
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        if told.get("key") is not None:
            scope["omniform.key"] = told["key"]
        scope["omniform.priority"] = told.get("rank", 0)
        gone, taken = asyncio.Event(), False
        watching = asyncio.create_task(_ended(reader, gone))

        async def receive() -> Message:
            nonlocal taken
            if taken:
                await gone.wait()
                return {"type": "http.disconnect"}
            taken = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            await written(writer, *said(message))

        try:
            await self._app(scope, receive, send)
        except OSError:
            raise
        except Exception:  # told to the client by now; Starlette raises it once more for the log
            log.debug("a request failed", exc_info=True)
        finally:
            watching.cancel()
        account = account_of(scope)
        await written(writer, {"account": None if account is None else account.told()})


async def _ended(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    """Wait until the door has nothing more to say: whoever asked is gone."""
    with contextlib.suppress(OSError):
        await reader.read(1)
    gone.set()


async def main(config: ServeConfig, place: str) -> None:
    """Answer until the door lets go of standard input.

    Args:
        place: of the socket.
    """
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        while sys.stdin.buffer.read(1):
            pass
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=wait, daemon=True).start()
    app = create_app(config, behind=True)
    async with app.router.lifespan_context(app):
        fresh = f"{place}.new"
        server = await asyncio.start_unix_server(Answering(app), fresh, backlog=2048)
        os.replace(fresh, place)  # that of one that died lies there, perhaps
        await over.wait()
        server.close()
        Path(place).unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        given = json.loads(sys.argv[1])
        asyncio.run(main(config_of(given["config"]), given["place"]))
    except InputError as error:
        print(f"omniform: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    except KeyboardInterrupt:
        os._exit(1)
    os._exit(0)  # whatever threads do
