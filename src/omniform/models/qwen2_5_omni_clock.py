"""What thinker and talker of Qwen2.5-Omni share: the tokens around media, and how positions count seconds."""

from __future__ import annotations

from omniform.architectures.omni_places import Clock
from omniform.core.reader import ConfigReader


def read_clock(r: ConfigReader, merge: int) -> Clock:
    """The tokens around media, and the positions of a second."""
    pace, seconds = r.integer("position_id_per_seconds", 25), r.number("seconds_per_chunk", 2)
    if pace * seconds < 1:
        raise r.fail("seconds_per_chunk", f"so many that they have a position, {pace} a second", seconds)
    return Clock(
        image=r.integer("image_token_index", 151655, least=0, also=("image_token_id",)),
        audio=r.integer("audio_token_index", 151646, least=0, also=("audio_token_id",)),
        video=r.integer("video_token_index", 151656, least=0, also=("video_token_id",)),
        vision_start=r.integer("vision_start_token_id", 151652, least=0),
        audio_start=r.integer("audio_start_token_id", 151647, least=0),
        per_second=pace,
        merge=merge,
        chunk=int(pace * seconds),
    )
