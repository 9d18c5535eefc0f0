"""Where given words stand in a text: what a tokenizer's added tokens are found by."""

from __future__ import annotations

from collections.abc import Iterable


class Node(dict[str, "Node"]):
    """The letters that may come next; :attr:`ends` where a word may end here."""

    ends = False


class Trie:
    """Words by their letters, to cut texts at.

    Args:
        words: the words there are at first.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        self.data = Node()
        self._tokens: set[str] = set()
        self.update(words)

    def update(self, words: Iterable[str]) -> None:
        """Add words."""
        for word in words:
            self.add(word)

    def add(self, word: str) -> None:
        """Add a word; an empty one is none, one that is known already changes nothing."""
        if not word:
            return
        self._tokens.add(word)
        node = self.data
        for letter in word:
            node = node.setdefault(letter, Node())
        node.ends = True

    def split(self, text: str) -> list[str]:
        """A text cut before and behind each word in it: the leftmost first, of several that begin there the longest."""
        parts, last, at = [], 0, 0
        while at < len(text):
            end = self._longest(text, at)
            if end == at:
                at += 1
                continue
            parts += [text[last:at], text[at:end]]
            last = at = end
        return [part for part in (*parts, text[last:]) if part]

    def _longest(self, text: str, start: int) -> int:
        """Where the longest word that begins at a letter ends; where it begins if there is none."""
        node, found = self.data, start
        for place in range(start, len(text)):
            step = node.get(text[place])
            if step is None:
                break
            node = step
            if node.ends:
                found = place + 1
        return found
