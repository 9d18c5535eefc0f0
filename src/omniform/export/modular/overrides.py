"""The parent's ``__init__`` with the lines that the child writes anew: in their place, and the deleted ones gone.

A modular file's ``self.x = ...`` after ``super().__init__()`` stands for the parent's line that sets ``x``; what the
parent's later lines make of ``x`` follows. ``del self.x`` takes the parent's line away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst

from omniform.export.modular import looks
from omniform.export.modular.sources import dotted


@dataclass
class Merged:
    """The lines, and what plain Python would have done otherwise."""

    body: list[cst.BaseStatement]
    notes: list[str] = field(default_factory=list)


def merged(parent: Sequence[cst.BaseStatement], after: Sequence[cst.BaseStatement], own: set[str]) -> Merged:
    """The parent's statements and the child's that follow its call, as one body.

    Args:
        parent: the parent's statements.
        after: the child's statements after ``super().__init__(...)``.
        own: names of variables that the child has of its own; ``del`` of another means the parent's.
    """
    lines = _Lines(list(parent))
    posts = [each for each in after if _is_post_init(each)]
    kept = _deleted(lines, [each for each in after if each not in posts], own)
    times = Counter(looks.target_of(each) for each in kept)
    rest: list[cst.BaseStatement] = []
    for index, statement in enumerate(kept):
        target = looks.target_of(statement)
        if target is None or times[target] > 1 or not lines.replace(statement, target, rest, kept[index + 1 :]):
            rest.append(statement)
    body = [*lines.body, *rest]
    if rest or posts:
        own_posts = [each for each in lines.body if _is_post_init(each)]
        last = [*posts, *own_posts][:1]
        body = [each for each in body if each not in own_posts] + last
    return Merged(body, lines.notes)


def _is_post_init(statement: cst.BaseStatement) -> bool:
    small = looks.only(statement)
    return isinstance(small, cst.Expr) and looks.code(small) == "self.post_init()"


def _deleted(lines: _Lines, after: Sequence[cst.BaseStatement], own: set[str]) -> list[cst.BaseStatement]:
    """The child's statements without the deletions that took a line of the parent's away."""
    overridden = {looks.target_of(each) for each in after}
    kept = list(after)
    changed = True
    while changed:
        changed = False
        for statement in list(kept):
            small = looks.only(statement)
            target = dotted(small.target) if isinstance(small, cst.Del) else ""
            if target and not (target in own and "." not in target) and lines.delete(target, overridden):
                kept.remove(statement)
                changed = True
    # What is left of the deletions of the parent's variables has nothing to delete.
    return [each for each in kept if not _deletes_variable(each, own)]


def _deletes_variable(statement: cst.BaseStatement, own: set[str]) -> bool:
    small = looks.only(statement)
    return isinstance(small, cst.Del) and isinstance(small.target, cst.Name) and small.target.value not in own


class _Lines:
    def __init__(self, body: list[cst.BaseStatement]) -> None:
        self.body = body
        self.notes: list[str] = []

    def _where(self, target: str) -> list[int]:
        return [index for index, each in enumerate(self.body) if looks.target_of(each) == target]

    def delete(self, target: str, overridden: set[str | None]) -> bool:
        """Take away the lines that set this; not if others read it that are not themselves written anew."""
        found = self._where(target)
        left = [
            each
            for index, each in enumerate(self.body)
            if index not in found and (looks.target_of(each) is None or looks.target_of(each) not in overridden)
        ]
        if not found or target in looks.reads(*left):
            return False
        self.body = [each for index, each in enumerate(self.body) if index not in found]
        return True

    def replace(
        self,
        statement: cst.BaseStatement,
        target: str,
        rest: list[cst.BaseStatement],
        later: Sequence[cst.BaseStatement],
    ) -> bool:
        """Put the child's line where the parent's stands; False if it must stay where the child has it."""
        found = self._where(target)
        if len(found) != 1:
            return False
        place = found[0]
        needs = looks.reads(statement)
        again = {looks.target_of(each) for each in later}
        following = [each for each in self.body[place + 1 :] if looks.target_of(each) not in again - {None}]
        read_after = target in looks.reads(*following)
        if "." not in target and (target in looks.reads(*later) or target in looks.reads(*rest)):
            return False  # a variable of the child's own, which has the parent's name by chance
        if target in needs or any(re.search(rf"{re.escape(target)}\b", looks.code(each)) for each in rest):
            return False  # what it makes anew is what the lines before it left
        hoisted = self._hoisted(needs, rest, following)
        if hoisted is None or self._set_in(following, needs) or looks.calls_own(statement):
            if read_after or looks.calls_own(*following):
                return False
            del self.body[place]
            return False
        if read_after:
            self.notes.append(f"{target} is set anew before the parent's lines that read it")
        self.body[place : place + 1] = [*hoisted, _with_comments(statement, self.body[place])]
        for each in hoisted:
            rest.remove(each)
        return True

    def _set_in(self, statements: Sequence[cst.BaseStatement], needs: set[str]) -> bool:
        return any(looks.target_of(each) in needs for each in statements)

    def _hoisted(
        self, needs: set[str], rest: list[cst.BaseStatement], following: Sequence[cst.BaseStatement]
    ) -> list[cst.BaseStatement] | None:
        """The child's own lines that must come before one that goes up; None where they cannot."""
        wanted = set(needs)
        taken: list[cst.BaseStatement] = []
        for each in reversed(rest):
            target = looks.target_of(each)
            if target is None:
                if _sets(each) & wanted:
                    return None
                continue
            if target in wanted:
                reads = looks.reads(each)
                if target in looks.reads(*following) or self._set_in(following, reads) or looks.calls_own(each):
                    return None
                wanted |= reads
                taken.insert(0, each)
        return taken


def _sets(statement: cst.BaseStatement) -> set[str]:
    found = _Targets()
    statement.visit(found)
    return found.names


class _Targets(cst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        self.names.add(dotted(node.target))

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self.names.add(dotted(node.target))


def _with_comments(statement: cst.BaseStatement, parent: cst.BaseStatement) -> cst.BaseStatement:
    """The child's line under its own comment; where it has none, the parent's empty lines are kept."""
    if not isinstance(statement, cst.SimpleStatementLine) or not isinstance(parent, cst.SimpleStatementLine):
        return statement
    if any(line.comment is not None for line in statement.leading_lines):
        return statement
    blank = [line for line in parent.leading_lines if line.comment is None]
    return statement.with_changes(leading_lines=blank[:1])
