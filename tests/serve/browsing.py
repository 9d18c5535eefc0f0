"""A real browser in front of the page: the system's Chromium, driven by playwright's Python package."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

CHROMIUM = os.environ.get("OMNIFORM_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""Where the browser lies; None where there is none."""

WHY_NOT = (
    "there is no Chromium here (`make page-test` installs one)"
    if CHROMIUM is None
    else None
    if importlib.util.find_spec("playwright")
    else "playwright is not installed"
)
"""Why the page cannot be tried here; None where it can."""

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
"""Nothing of the browser's own goes over the network; its microphone beeps."""


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """The browser, with nothing of an earlier one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield found
        finally:
            found.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, **settings: object) -> Iterator[Page]:
    """The page in a profile of its own. What goes wrong in it, or leaves for another server, fails the test."""
    settings = {"viewport": {"width": 1200, "height": 800}, "reduced_motion": "reduce", **settings}
    context = browser.new_context(**settings)
    context.set_default_timeout(30_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    page.on("request", lambda asked: None if _own(asked.url, url) else wrong.append(f"asked for {asked.url}"))
    try:
        page.goto(f"{url}/")
        page.locator("#model option").first.wait_for(state="attached")
        yield page
        assert not wrong, wrong
    finally:
        context.close()


def _own(asked: str, url: str) -> bool:
    return asked.startswith((f"{url}/", "data:", "blob:"))


def streamed(*deltas: dict[str, object], end: Sequence[str] = ("data: [DONE]",), finish: str = "stop") -> str:
    """An answer as the server streams it, of what its pieces add."""
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    told = [f"data: {json.dumps({'model': 'scenes', 'choices': [choice]})}" for choice in choices]
    return "\n\n".join([*told, *end]) + "\n\n"


def answering(
    page: Page, body: str, status: int = 200, headers: dict[str, str] | None = None
) -> list[dict[str, object]]:
    """Answer the page in the server's place; what it asks for is in the list that is given back."""
    asked: list[dict[str, object]] = []

    def answer(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or "{}"))
        kind = "text/event-stream" if status == 200 else "application/json"
        route.fulfill(status=status, body=body, content_type=kind, headers=headers)

    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", answer)
    return asked


def ask(page: Page, text: str) -> None:
    """Write a message and send it."""
    page.fill("#ask", text)
    page.press("#ask", "Enter")


def drop(page: Page, file: Path, kind: str) -> None:
    """Drop a file upon the page."""
    page.evaluate(
        """([bytes, name, kind]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type: kind }));
            for (const what of ["dragenter", "dragover", "drop"])
                document.querySelector("#thread").dispatchEvent(
                    new DragEvent(what, { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [list(file.read_bytes()), file.name, kind],
    )


CONTRASTS = """() => {
    // What of the page can be read, with the contrast of its letters to what lies behind them; painted on a canvas, so
    // that the browser itself says what a colour is. Source: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const paint = (colours) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => rgb.map((one) => one / 255)
        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
        .reduce((sum, one, i) => sum + one * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text = walk.nextNode(); text; text = walk.nextNode()) {
        const node = text.parentElement, box = node.getBoundingClientRect();
        if (!text.data.trim() || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        if (box.width < 2 || box.height < 2 || node.closest(".unseen, option, [disabled], svg")) continue;
        const grounds = [];
        for (let one = node; one; one = one.parentElement) grounds.unshift(getComputedStyle(one).backgroundColor);
        const style = getComputedStyle(node), size = parseFloat(style.fontSize);
        const ground = paint(["white", ...grounds]), letters = paint(["white", ...grounds, style.color]);
        const [low, high] = [light(ground), light(letters)].sort((a, b) => a - b);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        found.push({ text: text.data.trim().slice(0, 40), ratio: (high + 0.05) / (low + 0.05), need: large ? 3 : 4.5 });
    }
    return found;
}"""

NAMELESS = """() => {
    // What can be used and has no name that is read out, ids that stand twice, pictures without words.
    const name = (node) => node.getAttribute("aria-label") || node.textContent.trim() ||
        document.getElementById(node.getAttribute("aria-labelledby"))?.textContent ||
        (node.labels && [...node.labels].map((one) => one.textContent.trim()).join(" "));
    const wrong = [];
    const used = "button, a[href], input:not([hidden]), select, textarea, summary, dialog, nav, audio, video";
    for (const node of document.querySelectorAll(`${used}, [role=region], [role=img]`))
        if (!name(node)) wrong.push(`no name: ${node.outerHTML.slice(0, 120)}`);
    for (const node of document.querySelectorAll("img:not([alt])"))
        wrong.push(`no words: ${node.outerHTML.slice(0, 120)}`);
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`twice: ${id}`);
    for (const node of document.querySelectorAll("[aria-controls], [aria-describedby], [aria-labelledby], label[for]"))
        for (const attribute of ["aria-controls", "aria-describedby", "aria-labelledby", "for"])
            for (const id of (node.getAttribute(attribute) || "").split(" "))
                if (id && !ids.includes(id)) wrong.push(`names nobody: ${id}`);
    for (const landmark of ["nav", "main", "header", "h1"])
        if (document.querySelectorAll(`body > * ${landmark}`).length < 1) wrong.push(`missing: ${landmark}`);
    return wrong;
}"""
