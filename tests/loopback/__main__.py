"""``make hub``: a Hub on this machine for whoever wants to try things, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from loopback.hub import Hub

_HELP = """\
A Hub is at {address}, its repositories are in {folder}

In another terminal:
  export HF_ENDPOINT={address}
  export HF_TOKEN={token}
  export HF_HOME={home}

then for example:
  hf auth whoami
  hf upload {user}/first src/omniform/assets/scenes-llava
  omniform run --model {user}/first --text "Describe the picture." --image examples/pictures/scene.png

A token that can only read: {read_token}
Ctrl-C stops it."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make hub", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("out/hub"), help="where repositories are kept")
    parser.add_argument("--port", type=int, default=8978, help="the port; 0 takes a free one (default: 8978)")
    parser.add_argument("--user", default="ann", help="who the tokens are for (default: ann)")
    parser.add_argument("--part", type=int, default=8 << 20, help="bytes in a part of an upload (default: 8 MiB)")
    given = parser.parse_args()
    folder = given.folder.resolve()
    for name in (signal.SIGINT, signal.SIGTERM):  # also where whoever started this ignores Ctrl-C
        signal.signal(name, signal.default_int_handler)
    with Hub(folder, port=given.port, user=given.user, part=given.part) as hub:
        told = {"token": hub.token, "read_token": hub.read_token, "user": hub.user, "home": folder / "home"}
        print(_HELP.format(address=hub.address, folder=folder, **told), flush=True)
        seen = 0
        try:
            while True:
                threading.Event().wait(0.5)
                requests = list(hub.log)
                for asked in requests[seen:]:
                    print(asked, flush=True)
                seen = len(requests)
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
