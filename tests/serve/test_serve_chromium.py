"""The page as a person has it: in a real Chromium, in front of a real server. Pictures of it are kept where
``OMNIFORM_PAGE_SHOTS`` says (`make page-test`)."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import CONTRASTS, NAMELESS, WHY_NOT, answering, ask, browser, drop, opened, streamed
from serving import Served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

SCENE = Path(__file__).parents[2] / "examples" / "pictures" / "scene.png"
SOUND = Path(__file__).parents[2] / "examples" / "sounds" / "command.wav"

MARKDOWN = """Here is how:

1. Read the **sizes**
2. Then _call_ `fit`

```python
def fit(width: int) -> str:  # as wide as it goes
    return f"{width * 2} px" if width > 3 else None
```

| size | what |
|-----:|:-----|
| 3 | small |
| 12 | large |

> More at [the site](https://example.org/a?b=c).
"""

HOSTILE = """<img src=x onerror="alert(1)"> </script><script>alert(2)</script>

[here](javascript:alert(3)) [there](data:text/html,<script>alert(4)</script>) ![p](https://evil.example/p.png)

```html"><img src=x onerror=alert(5)>
<svg onload=alert(6)>
```

| <b>a</b> | <iframe src="https://evil.example"></iframe> |
|---|---|
| <style>*{display:none}</style> | [x](JaVaScRiPt:alert(7)) |

<https://good.example/"onmouseover="alert(8)> and https://good.example/<script>alert(9)</script>"""

VERBATIM = (
    '<img src=x onerror="alert(1)">',
    "</script><script>alert(2)</script>",
    "[here](javascript:alert(3))",
    "<svg onload=alert(6)>",
    "<style>*{display:none}</style>",
)
"""Parts of it that must be seen as they were written."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def page(chromium: Browser, served: Served) -> Iterator[Page]:
    with opened(chromium, served.url) as found:
        yield found


@pytest.fixture
def shot(tmp_path: Path) -> Callable[[Page, str], None]:
    """Keeps a picture of the page."""
    folder = Path(os.environ.get("OMNIFORM_PAGE_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: (page.screenshot(path=folder / f"{name}.png"), None)[1]


def answered(page: Page) -> str:
    """The last answer, when it is whole."""
    page.locator(".model.last:not(.writing)").wait_for()
    return page.locator(".model.last .body").inner_text()


def settle(page: Page, until: Callable[[], bool], what: str) -> None:
    """Let the page work until something holds."""
    end = time.monotonic() + 30
    while not until():
        assert time.monotonic() < end, what
        page.wait_for_timeout(30)


def without_end(page: Page) -> None:
    """Have what the page asks for written without an end, by the real server."""

    def longer(route: Route) -> None:
        asked = {**json.loads(route.request.post_data or "{}"), "logit_bias": {"2": -100}, "temperature": 2}
        route.continue_(post_data=json.dumps(asked))

    page.route("**/v1/chat/completions", longer)


def as_soon_as_it_writes(page: Page, act: str) -> None:
    """Do something in the page itself once the answer has begun: whoever looks from outside may come too late."""
    page.evaluate(
        """(act) => new MutationObserver((_, self) => {
            if (!document.querySelector(".model.writing .body p")) return;
            self.disconnect();
            const send = document.querySelector("#send");
            window.label = send.getAttribute("aria-label");
            if (act === "click") send.click();
            else document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: act, bubbles: true }));
        }).observe(document.querySelector("#thread"), { subtree: true, childList: true })""",
        act,
    )


# ---- chats


def test_a_picture_is_answered(page: Page, served: Served, shot: Callable[[Page, str], None]) -> None:
    content = [{"type": "image", "image": SCENE.read_bytes()}, {"type": "text", "text": "Describe the picture."}]
    loaded = next(iter(served.desk.shelf.loaded()))
    expected = str(loaded.writes().generate([{"role": "user", "content": content}], do_sample=False).text)
    page.evaluate(
        """() => {
            window.seen = new Set();
            new MutationObserver(() => window.seen.add(document.querySelector(".model .body")?.textContent || ""))
                .observe(document.querySelector("#thread"), { subtree: true, childList: true, characterData: true });
        }"""
    )
    page.click("#open-settings")
    page.fill("#s-temperature", "0")
    page.keyboard.press("Escape")
    drop(page, SCENE, "image/png")
    page.locator("#items img").wait_for()
    shot(page, "attached")
    ask(page, "Describe the picture.")
    assert answered(page) == expected
    seen = [text for text in page.evaluate("[...window.seen]") if text]
    assert len(seen) > 2 and all(expected.startswith(text) for text in seen), "it comes at once, and not piece by piece"
    assert page.locator(".user img").evaluate("image => image.naturalWidth") > 0
    assert re.search(r"scenes · \d+ tokens", page.locator(".model .facts").inner_text())
    page.click("#engine summary")
    page.locator("#engine-body .meter").wait_for()
    assert "Blocks used" in page.locator("#engine-body").inner_text()
    shot(page, "light")
    page.emulate_media(color_scheme="dark")
    shot(page, "dark")


def test_stop_gives_the_blocks_back(page: Page, served: Served) -> None:
    without_end(page)
    engine = next(iter(served.desk.shelf.loaded())).writes()
    as_soon_as_it_writes(page, "Escape")
    ask(page, "Describe the picture.")
    page.locator(".model.last:not(.writing)").wait_for()
    assert "stopped" in page.locator(".model .facts").inner_text() and page.evaluate("window.label") == "Stop"
    settle(
        page, lambda: not (engine.stats().running or engine.stats().blocks_used), "what was stopped is still written"
    )
    assert page.locator("#send").get_attribute("aria-label") == "Send"


def test_the_button_stops_too_and_another_answer_can_be_had(page: Page) -> None:
    without_end(page)
    as_soon_as_it_writes(page, "click")
    ask(page, "Hello")
    page.locator(".model.last:not(.writing)").wait_for()
    page.unroute("**/v1/chat/completions")
    answering(page, streamed({"content": "Once more."}))
    page.locator(".model.last").hover()
    page.get_by_role("button", name="Answer anew").click()
    settle(page, lambda: answered(page) == "Once more.", "it is not answered anew")
    page.get_by_role("button", name="Undo").click()
    page.locator(".model.last .facts", has_text="stopped").wait_for()


def test_chats_outlive_the_page(page: Page) -> None:
    answering(page, streamed({"content": "An answer."}))
    drop(page, SCENE, "image/png")
    page.locator("#items img").wait_for()
    ask(page, "The first question")
    answered(page)
    page.keyboard.press("Control+k")
    ask(page, "Another question")
    answered(page)
    page.reload()
    page.locator(".chats .words").nth(1).wait_for()
    assert page.locator(".chats .words").all_inner_texts() == ["Another question", "The first question"]
    assert page.locator(".user .bubble").inner_text() == "Another question"
    page.get_by_role("button", name="The first question", exact=True).click()
    assert page.locator(".model .body").inner_text() == "An answer."
    assert page.locator(".user img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_renamed_deleted_had_back_exported_and_read_again(page: Page, tmp_path: Path) -> None:
    answering(page, streamed({"content": "An answer."}))
    ask(page, "A question")
    answered(page)
    page.locator(".chats li").hover()
    page.get_by_role("button", name="Rename A question").click()
    page.locator(".rename").fill("Kept")
    page.locator(".rename").press("Enter")
    assert page.locator("#title").inner_text() == "Kept"
    page.locator(".chats li").hover()
    with page.expect_download() as loading:
        page.get_by_role("button", name="Export Kept").click()
    file = tmp_path / loading.value.suggested_filename
    loading.value.save_as(file)
    assert json.loads(file.read_text())["chats"][0]["messages"][1]["text"] == "An answer."
    page.get_by_role("button", name="Delete Kept").click()
    assert page.locator(".chats .open").count() == 0
    page.get_by_role("button", name="Undo").click()
    assert page.locator(".chats .words").all_inner_texts() == ["Kept"]
    page.locator(".chats li").hover()
    page.get_by_role("button", name="Delete Kept").click()
    page.reload()
    page.locator(".chats .none").wait_for()
    page.set_input_files("#import-file", file)
    page.locator(".chats .words").wait_for()
    assert page.locator(".chats .words").all_inner_texts() == ["Kept"]
    assert page.locator(".model .body").inner_text() == "An answer."


def test_a_message_is_edited(page: Page) -> None:
    asked = answering(page, streamed({"content": "An answer."}))
    ask(page, "First")
    answered(page)
    ask(page, "Second")
    settle(page, lambda: page.locator(".model:not(.writing)").count() == 2, "the second is not answered")
    page.press("#ask", "ArrowUp")  # the last message, to be edited
    page.keyboard.press("Escape")
    page.locator(".user").first.hover()
    page.get_by_role("button", name="Edit this message").first.click()
    page.keyboard.press("Control+a")
    page.keyboard.type("Better")
    page.keyboard.press("Enter")
    settle(page, lambda: len(asked) == 3 and page.locator(".model:not(.writing)").count() == 1, "it is not sent anew")
    assert [one["content"] for one in asked[-1]["messages"]] == ["Better"]
    assert [one["content"] for one in asked[1]["messages"]] == ["First", "An answer.", "Second"]


# ---- what is sent


def test_settings_are_sent_and_kept(page: Page) -> None:
    asked = answering(page, streamed({"content": "Yes."}))
    ask(page, "Plain")
    answered(page)
    assert set(asked[0]) == {"messages", "model", "stream", "stream_options"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    page.get_by_role("button", name="Settings").click()
    page.fill("#s-system", "Be brief.")
    for name, value in {"temperature": "0.4", "top_p": "0.9", "max_tokens": "50", "seed": "7"}.items():
        page.fill(f"#s-{name}", value)
    page.fill("#s-tools", "[{")
    assert page.locator("#e-tools").inner_text().startswith("Not used yet")
    page.fill("#s-tools", json.dumps(tools))
    page.fill("#s-key", "secret-key")
    page.get_by_role("button", name="Close the settings").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Again")
    settle(page, lambda: len(asked) == 2, "it is not sent")
    told = {name: asked[1].get(name) for name in ("temperature", "top_p", "max_tokens", "seed", "tools", "model")}
    expected = {"temperature": 0.4, "top_p": 0.9, "max_tokens": 50, "seed": 7, "tools": tools, "model": "scenes"}
    assert told == expected and asked[1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent.value.header_value("authorization") == "Bearer secret-key"
    page.reload()
    page.click("#open-settings")
    assert page.locator("#s-system").input_value() == "Be brief." and page.locator("#s-seed").input_value() == "7"
    assert page.locator("#s-key").input_value() == "secret-key"
    assert "secret-key" not in page.evaluate("JSON.stringify(localStorage)")


def test_sounds_are_sent_as_the_server_reads_them(page: Page) -> None:
    soundfile = pytest.importorskip("soundfile")
    assert not page.locator("#record").is_visible(), "what the model does not hear is recorded"
    told = {
        "now": 0,
        "gate": {"running": 0, "waiting": 0},
        "models": [{"name": "scenes", "loaded": True, "reads": ["audio"]}],
    }
    page.route("**/engine", lambda route: route.fulfill(json=told))
    page.reload()
    page.locator("#record").wait_for()
    page.get_by_text("Sounds can be dropped").wait_for()
    asked = answering(page, streamed({"content": "A beep."}))
    drop(page, SOUND, "audio/wav")
    page.locator("#items audio").wait_for()
    page.click("#record")
    page.locator("#recording").wait_for()
    page.wait_for_timeout(1200)
    page.click("#record")
    settle(page, lambda: page.locator("#items audio").count() == 2, "nothing is recorded")
    ask(page, "")
    answered(page)
    dropped, recorded = (part["input_audio"] for part in asked[0]["messages"][0]["content"])
    assert base64.b64decode(dropped["data"]) == SOUND.read_bytes() and dropped["format"] == "wav"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(recorded["data"])))
    assert rate == 16000 and samples.ndim == 1 and 0.4 < len(samples) / rate < 10 and abs(samples).max() > 0.01


def test_a_picture_is_pasted_and_a_large_one_made_smaller(page: Page) -> None:
    from PIL import Image

    asked = answering(page, streamed({"content": "A picture."}))
    large = io.BytesIO()
    Image.new("RGB", (5000, 1000), "teal").save(large, "PNG")
    page.evaluate(
        """(bytes) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], "large.png", { type: "image/png" }));
            document.querySelector("#ask").dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        list(large.getvalue()),
    )
    page.locator("#items img").wait_for()
    ask(page, "What is it?")
    answered(page)
    image, text = asked[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (2048, 410)


def test_what_is_no_picture_is_said(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    drop(page, broken, "image/png")
    page.get_by_text("broken.png cannot be read here").wait_for()
    drop(page, broken, "application/pdf")
    page.get_by_text("broken.png is no picture, sound or video").wait_for()
    drop(page, SOUND, "audio/wav")
    page.locator(".note.wrong").wait_for()
    assert "reads no sounds" in page.locator(".note").inner_text()


# ---- what is shown


def test_markdown_and_code(page: Page, shot: Callable[[Page, str], None]) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answering(page, streamed(*({"content": letter} for letter in MARKDOWN)))
    ask(page, "How?")
    answered(page)
    body = page.locator(".model .body")
    assert body.locator("ol > li").all_inner_texts() == ["Read the sizes", "Then call fit"]
    assert body.locator("strong").inner_text() == "sizes" and body.locator("li em").inner_text() == "call"
    assert body.locator("td.right").all_inner_texts() == ["3", "12"]
    assert body.locator("blockquote a").get_attribute("href") == "https://example.org/a?b=c"
    code = MARKDOWN.split("```")[1].removeprefix("python\n").rstrip("\n")
    assert body.locator("pre").inner_text() == code and body.locator("pre .c-word").first.inner_text() == "def"
    shot(page, "markdown")
    page.get_by_role("button", name="Copy code").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == code


def test_what_a_model_writes_is_text(page: Page) -> None:
    for text in (
        HOSTILE,
        "> " * 3000 + "x",
        "*" * 5000 + "a",
        "[" * 5000,
        "_a " * 3000,
        "- " * 2000,
        "`" * 4001 + "a`",
    ):
        answering(page, streamed({"content": text, "reasoning_content": text}))
        page.keyboard.press("Control+k")
        ask(page, text[:2000])
        answered(page)
        found = page.evaluate(
            """() => {
                const all = [...document.querySelectorAll("#thread *, #heard *, #chats *")];
                const attributes = all.flatMap((one) => [...one.attributes]).map((one) => one.name);
                return { tags: all.map((one) => one.tagName), events: attributes.filter((one) => one.startsWith("on")),
                    links: all.filter((one) => one.href?.length).map((one) => one.href) };
            }"""
        )
        assert not {"IMG", "SCRIPT", "IFRAME", "STYLE", "B"} & set(found["tags"]) and not found["events"]
        assert all(link.startswith("https://") for link in found["links"]), found["links"]
        if text is HOSTILE:
            shown = page.locator(".model .body").inner_text()
            for part in VERBATIM:
                assert part in shown, part


def test_reasoning_is_folded(page: Page, shot: Callable[[Page, str], None]) -> None:
    answering(page, streamed({"reasoning_content": "Let me **see**."}, {"content": "Seen."}))
    ask(page, "Think")
    assert answered(page) == "Seen."
    fold = page.locator(".thought")
    assert not fold.locator(".markdown").is_visible()
    fold.locator("summary").click()
    assert fold.locator("strong").inner_text() == "see"


def test_calls_are_shown_and_their_results_sent(page: Page, shot: Callable[[Page, str], None]) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    more = {"index": 0, "function": {"arguments": '"Bern"}'}}
    asked = answering(page, streamed({"tool_calls": [call]}, {"tool_calls": [more]}, finish="tool_calls"))
    ask(page, "How is the weather?")
    answered(page)
    assert page.locator(".call .name").inner_text() == "Calls weather"
    assert json.loads(page.locator(".call pre").inner_text()) == {"city": "Bern"}
    page.get_by_label("What weather gave").fill("sunny")
    shot(page, "call")
    answering(page, streamed({"content": "It is sunny."}))
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Go on with these results").click()
    assert answered(page) == "It is sunny." and len(asked) == 1
    messages = sent.value.post_data_json["messages"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Bern"}'}
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


FAILURES = {
    401: ("The server wants a key", "Enter a key"),
    413: ("too large", "Take out a picture"),
    429: ("busy", "Try again in 7 seconds"),
    503: ("cannot answer now", "loading the model"),
    500: ("failed", "in its log"),
}


@pytest.mark.parametrize("status", FAILURES)
def test_errors_in_words(status: int, page: Page, shot: Callable[[Page, str], None]) -> None:
    body = json.dumps({"error": {"message": "said the server <b>", "type": "x", "param": None, "code": None}})
    answering(page, body, status=status, headers={"Retry-After": "7"} if status == 429 else None)
    ask(page, "Hello")
    answered(page)
    told = page.locator(".problem").inner_text()
    assert all(part in told for part in FAILURES[status]) and "said the server <b>" in told
    if status == 401:
        shot(page, "error")
        page.get_by_role("button", name="Enter a key").click()
        assert page.evaluate("document.activeElement.id") == "s-key"
    else:
        answering(page, streamed({"content": "Now it works."}))
        page.get_by_role("button", name="Try again").click()
        settle(page, lambda: page.locator(".model .body").inner_text() == "Now it works.", "it is not tried again")
        assert page.locator(".problem:visible").count() == 0


@pytest.mark.parametrize("end", [(), ('data: {"error": {"message": "lost", "type": "server_error", "code": null}}',)])
def test_a_stream_that_breaks_keeps_what_came(end: tuple[str, ...], page: Page) -> None:
    answering(page, streamed({"content": "Half of"}, end=end))
    ask(page, "Hello")
    assert answered(page) == "Half of"
    assert page.locator(".problem").is_visible()


def test_a_server_that_is_gone_is_named(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    ask(page, "Hello")
    answered(page)
    assert "The server does not answer" in page.locator(".problem").inner_text()


# ---- for whom


def test_keys(page: Page) -> None:
    asked = answering(page, streamed({"content": "Yes."}))
    assert page.evaluate("document.activeElement.id") == "ask"
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answered(page)
    assert asked[0]["messages"][0]["content"] == "one\ntwo"
    page.keyboard.press("Meta+k")
    page.locator(".welcome").wait_for()
    assert page.evaluate("document.activeElement.id") == "ask"
    page.evaluate("document.activeElement.blur()")
    page.reload()
    order = []
    page.evaluate("document.activeElement.blur()")
    page.locator("#chats .open").wait_for()
    while order.count("skip") < 2:  # once around, from the page's beginning
        assert len(order) < 60
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            continue
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if order[-1] == "skip":
            assert page.locator(".skip").bounding_box()["y"] >= 0
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        # The field's box is drawn anew where it has the focus.
        assert outline != "none" or order[-1] == "ask", f"where one is cannot be seen: {order[-1]}"
    order = order[order.index("skip") : -1]
    expected = ["skip", "new", "model", "theme", "open-settings", "ask", "attach"]
    assert [one for one in order if one in expected] == expected


def test_names_and_contrasts(page: Page, shot: Callable[[Page, str], None]) -> None:
    answering(page, streamed({"content": MARKDOWN, "reasoning_content": "Hm."}))
    ask(page, "How?")
    answered(page)
    answering(page, "{}", status=500)
    ask(page, "And now?")
    answered(page)
    page.click("#engine summary")
    page.locator("#engine-body .meter").wait_for()
    page.locator(".thought summary").first.click()
    for sheet in (False, True):
        if sheet:
            page.click("#open-settings")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            weak = [one for one in page.evaluate(CONTRASTS) if one["ratio"] < one["need"]]
            assert not weak, (scheme, weak)
            if sheet:
                shot(page, f"settings-{scheme}")
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("document.getAnimations().length") == 0, "it moves where that is not wanted"


def test_the_colours_can_be_chosen(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    page.click("#theme")
    dark = page.evaluate(ground)
    assert dark != light and page.locator("#theme").get_attribute("aria-label") == "Colours: dark"
    page.reload()
    assert page.evaluate(ground) == dark
    page.click("#theme")
    assert page.evaluate(ground) == light


def test_an_answer_is_read_out_by_sentences(page: Page) -> None:
    words = [{"content": f"word{n} "} for n in range(200)]
    answering(page, streamed(*words))
    page.evaluate(
        """() => {
            window.told = 0;
            const count = (all) => { window.told += all.filter((one) => one.addedNodes.length).length; };
            new MutationObserver(count).observe(document.querySelector("#heard"), { childList: true, subtree: true });
        }"""
    )
    ask(page, "Speak")
    answered(page)
    assert page.locator("#heard").get_attribute("aria-live") == "polite"
    said = page.locator("#heard").text_content()
    assert "word0 word1 " in said and said.endswith("The answer is complete.")
    assert 1 <= page.evaluate("window.told") < 10
    assert page.locator(".thread[aria-live], .thread [aria-live]").count() == 0


def test_a_narrow_screen(chromium: Browser, served: Served, shot: Callable[[Page, str], None]) -> None:
    sizes = {"viewport": {"width": 360, "height": 720}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with opened(chromium, served.url, **sizes) as page:
        shot(page, "narrow-empty")
        page.set_input_files("#files", SCENE)
        page.locator("#items img").wait_for()
        ask(page, "Describe the picture.")
        answered(page)
        shot(page, "narrow")
        answering(page, streamed({"content": MARKDOWN + "\n\n" + "x" * 400}))
        ask(page, "How?")
        settle(page, lambda: page.locator(".model:not(.writing)").count() == 2, "it is not answered")
        wide = page.evaluate(
            """() => [...document.querySelectorAll("html, body, main, .thread, .thread *, .ask-box *")]
                .filter((one) => one.getBoundingClientRect().right > 360.5 && !one.closest(".wide, pre, .unseen"))
                .map((one) => one.outerHTML.slice(0, 100))"""
        )
        assert not wide, f"wider than the screen: {wide}"
        shot(page, "narrow-markdown")
        small = page.evaluate(
            """() => [...document.querySelectorAll(".top button, .tools button, .pick select")]
                .filter((one) => one.checkVisibility()).map((one) => [one.id, one.getBoundingClientRect()])
                .filter(([, box]) => box.width < 24 || box.height < 24 || box.left < 0 || box.right > 360)
                .map(([id]) => id)"""
        )
        assert not small, f"too small for a finger, or out of sight: {small}"
        page.click("#open-side")
        page.locator("#close-side").wait_for()
        shot(page, "narrow-chats")
        assert page.evaluate("document.querySelector('.column').inert")
        page.keyboard.press("Escape")
        assert not page.evaluate("document.querySelector('.column').inert") and page.evaluate(
            "document.querySelector('#side').inert"
        )
        page.click("#open-settings")
        shot(page, "narrow-settings")
        assert page.evaluate("document.querySelector('#settings').scrollWidth <= 360")
