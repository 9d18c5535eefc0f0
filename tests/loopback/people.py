"""Who may do what: users, organisations and their tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loopback.git import write_whole

Role = Literal["read", "write", "admin"]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a user's: one of role ``read`` can change nothing."""

    text: str
    user: str
    role: Role


class People:
    """Users, organisations and tokens of one Hub, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tokens: dict[str, Token] = {}
        self.organisations: dict[str, dict[str, Role]] = {}
        if path.is_file():
            known = json.loads(path.read_text())
            self._tokens = {text: Token(text, user, role) for text, user, role in known["tokens"]}
            self.organisations = known["organisations"]

    def _save(self) -> None:
        tokens = [[token.text, token.user, token.role] for token in self._tokens.values()]
        write_whole(self._path, json.dumps({"tokens": tokens, "organisations": self.organisations}, indent=1).encode())

    @property
    def users(self) -> list[str]:
        return sorted({token.user for token in self._tokens.values()})

    def token(self, user: str, role: Role = "write") -> str:
        """A user's token of that role: ``hf_ann_write``. A user who is new is made."""
        text = f"hf_{user}_{role}"
        self._tokens[text] = Token(text, user, role)
        self._save()
        return text

    def revoke(self, text: str) -> None:
        del self._tokens[text]
        self._save()

    def organisation(self, name: str, **members: Role) -> None:
        """An organisation and its members' roles in it."""
        self.organisations[name] = dict(members)
        self._save()

    def whose(self, text: str) -> Token | None:
        return self._tokens.get(text)

    def role_in(self, user: str, namespace: str) -> Role | None:
        """What a user may do in a namespace: all in their own, what an organisation lets them, else nothing."""
        if user == namespace:
            return "admin"
        return self.organisations.get(namespace, {}).get(user)

    def organisations_of(self, user: str) -> dict[str, Role]:
        return {name: members[user] for name, members in self.organisations.items() if user in members}
