"""Transcripts as files: what players read."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from omniform.core.errors import InputError
from omniform.core.spoken import SpokenWord
from omniform.core.subtitles import LINES, WIDTH, Said, clock, readable_clock, shown, subtitles

TALK = [
    Said(text=" Hello there.", start=0.0, end=1.5),
    Said(text=" Tabs\tand <b>marks</b> & arrows --> here", start=2.0, end=4.25),
]


def test_subrip():
    assert "".join(subtitles(TALK, "srt")) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n"
        "2\n00:00:02,000 --> 00:00:04,250\nTabs and <b>marks</b> & arrows -> here\n\n"
    )


def test_webvtt():
    assert "".join(subtitles(TALK, "vtt")) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "00:00:02.000 --> 00:00:04.250\nTabs and &lt;b&gt;marks&lt;/b&gt; &amp; arrows --&gt; here\n\n"
    )


def test_tabs_and_plain_text():
    assert "".join(subtitles(TALK, "tsv")) == (
        "start\tend\ttext\n0\t1500\tHello there.\n2000\t4250\tTabs and <b>marks</b> & arrows --> here\n"
    )
    assert "".join(subtitles(TALK, "txt")) == "Hello there.\nTabs and <b>marks</b> & arrows --> here\n"


def test_json_tells_all():
    words = (SpokenWord(" red", 0.1, 0.4), SpokenWord(" circle", 0.5, 0.98765))
    whole = json.loads("".join(subtitles([Said(text=" red circle", words=words)], "json", {"language": "en"})))
    assert whole["language"] == "en" and whole["text"] == "red circle"
    (segment,) = whole["segments"]
    assert segment["start"] is None and segment["words"][1] == {"word": "circle", "start": 0.5, "end": 0.988}


def test_pieces_come_as_they_are_said():
    """A transcript of hours is written while it is heard: a stretch waits for the two that follow."""
    asked = []

    def talk():
        for one in [*TALK, *TALK]:
            asked.append(one)
            yield one

    pieces = subtitles(talk(), "srt")
    next(pieces)
    assert len(asked) == 3


def test_long_stretches_are_cut_where_words_pause():
    words = [SpokenWord(f" word{i}", i * 0.5 + 3 * (i >= 6), i * 0.5 + 0.4 + 3 * (i >= 6)) for i in range(12)]
    said = Said(text="".join(w.text for w in words), start=0.0, end=9.0, words=tuple(words))
    found = list(shown([said]))
    assert [(round(a, 2), round(b, 2)) for a, b, _ in found] == [
        (0.0, 2.9),
        (6.0, 9.0),
    ]  # the last is seen to the stretch's end
    assert " ".join(" ".join(lines) for *_, lines in found).split() == [w.text.strip() for w in words]


@pytest.mark.parametrize("text", [" one two three" * 40, "語" * 300, "x" * 130, " a" * 90])
def test_no_subtitle_is_too_wide_and_none_overlaps(text):
    """Without times of words, too."""
    found = list(shown([Said(text=text, start=1.0, end=31.0), Said(text="next", start=31.0, end=None)]))
    assert all(len(lines) <= LINES and all(len(line) <= WIDTH for line in lines) for *_, lines in found)
    assert all(a[1] <= b[0] + 1e-9 and a[0] <= a[1] for a, b in itertools.pairwise(found))
    told = "".join("".join(lines) for *_, lines in found)
    assert re.sub(r"\s", "", told) == re.sub(r"\s", "", text) + "next"


def test_times_that_are_not_known():
    """An end is the next beginning; a last one is as long as its letters; nothing goes back."""
    said = [Said(text="a", start=1.0), Said(text="b", start=4.0), Said(text=" "), Said(text="c", start=2.0, end=3.0)]
    times = [(start, end) for start, end, _ in shown(said)]
    assert times[0] == (1.0, 4.0) and times[1][0] == 4.0 and times[2][0] >= times[1][1]


def test_clocks():
    assert clock(3661.0015) == "01:01:01.002" and clock(360_000.5, comma=True) == "100:00:00,500"
    assert readable_clock(3723.44) == "1:02:03.4" and readable_clock(59.96) == "1:00.0"


def test_an_unknown_form():
    with pytest.raises(InputError, match="Did you mean 'srt'"):
        subtitles([], "str")
