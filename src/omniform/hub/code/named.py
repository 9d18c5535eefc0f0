"""The door of the Auto classes: the class that a checkpoint's ``auto_map`` names, if the user trusts it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from omniform.core.errors import CodeError, ConfigError, InputError, OmniformError, RepoError
from omniform.hub.code import asking, importer, trust
from omniform.hub.code.closure import File, Files, Repository
from omniform.hub.code.mode import mode_of
from omniform.hub.code.promises import keeps, register
from omniform.hub.code.reference import Reference, maps_in, named_in
from omniform.hub.files import Source, read_json, read_json_list

GENERATE_FILE: Final = "custom_generate/generate.py"
"""A repository's own decoding loop."""

STEPS_FILE: Final = "modules.json"

NAMING: Final = (
    "config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip
"""The files that may name code."""


def class_named(
    auto: str, source: Source, auto_map: object, trusted: object, *, code_revision: str | None = None
) -> type | None:
    """The class that a checkpoint names for an Auto class; its code runs now, if the user trusts it.

    Args:
        auto: the Auto class's name.
        source: the checkpoint.
        auto_map: what its file says.
        trusted: what the user says: ``trust_remote_code``.
        code_revision: which version of the code, if not the checkpoint's.

    Returns:
        The class; None where the user does not trust the checkpoint, or where it names none.

    Raises:
        InputError: ``trusted`` is none of its values.
        TrustError: the code is another than was accepted.
        CodeError: the name or the code cannot be used, or the class is not what was promised.
        DependencyError: packages are missing.
        RepoError: a file is missing.
    """
    mode = mode_of(trusted)
    if mode == "never":
        return None
    asked = named_in(auto_map, auto, source.name)
    if asked is None:
        return None
    if mode == "sandbox":
        in_sandbox(asked, source)
    found = loaded(asked, source, code_revision=code_revision)
    kind = keeps(found, auto, f"{source.name}: auto_map[{auto!r}] = {asked}")
    register(kind, auto)  # saved again, it takes its code along
    return kind


def in_sandbox(asked: Reference, source: Source) -> NoReturn:
    """Refuse what would need a class here that may run in a sandbox only."""
    raise InputError(
        "this is done in the process itself, where code in a sandbox cannot be reached",
        where="trust_remote_code",
        found=f"'sandbox', {asked}",
        remedy=f"Use from_pretrained of an Auto class, or trust the code: omniform trust {source.name} shows it.",
    )


@dataclass(frozen=True, slots=True)
class Code:
    """A repository's code, read.

    Attributes:
        files: all that would run.
        entries: the files that the checkpoint names.
        command: what shows them at the command line.
    """

    files: Files
    entries: tuple[str, ...]
    command: str = ""

    @property
    def commit(self) -> str:
        """The commit that it was read from; empty for a folder."""
        return self.files.repository.source.commit or ""

    def shown(self, asked: Iterable[str] = ()) -> list[File]:
        """The files that would run, sorted by path; those of further entries included."""
        wanted = {path for entry in (*self.entries, *asked) for path in _paths(self.files, entry)}
        return [self.files.found[path] for path in sorted(wanted)]

    def admit(self, asked: Iterable[str] = (), *, said: bool = True) -> None:
        """Show the code and remember it; see :func:`asking.admit`."""
        wanted = [file.path for file in self.shown()]
        repository = self.files.repository
        name, files = repository.source.name, self.shown(asked)
        asking.admit(repository.key, name, files, self.commit, wanted, said=said, command=self.command)


def _paths(files: Files, entry: str) -> list[str]:
    return [file.path for file in files.closure(entry)]


def code_of(source: Source, *, repo: str | None = None, code_revision: str | None = None) -> Code:
    """All code of a checkpoint that it names itself, read and not run.

    Args:
        repo: another repository, whose code it names.
        code_revision: which version of the code, if not the checkpoint's.
    """
    home = _home(source, repo, code_revision)
    files, entries = Files(home), []
    names = [named.file for named in named_by(source) if _foreign(named, source) == repo]
    for file in dict.fromkeys([*names, *([GENERATE_FILE] if repo is None else [])]):
        entry = home.entry(file)
        try:
            files.add(entry)
        except (RepoError, CodeError):  # it matters when it is asked for
            continue
        entries.append(entry)
    return Code(files, tuple(entries), _command(source, code_revision))


def with_accepted(code: Code) -> Code:
    """The same, with files that were accepted before though the checkpoint does not name them: asked for by name."""
    files, more = code.files, []
    known = {path for one in trust.accepted(files.repository.key) for path in one.files}
    for path in sorted(known - {file.path for file in code.shown()}):
        try:
            files.add(path)
        except (RepoError, CodeError):  # it is gone
            continue
        more.append(path)
    return replace(code, entries=(*code.entries, *more))


def _command(source: Source, code_revision: str | None) -> str:
    """What shows a checkpoint's code at the command line: where it was looked for is part of it."""
    places = {"--revision": source.revision, "--code-revision": code_revision, "--subfolder": source.subfolder}
    said = [word for option, value in places.items() if value for word in (option, value)]
    return shlex.join(["omniform", "trust", source.name, *said])


def repositories(source: Source) -> list[str]:
    """Other repositories that a checkpoint names code of."""
    names = (_foreign(named, source) for named in named_by(source))
    return list(dict.fromkeys(name for name in names if name is not None))


def loaded(asked: Reference, source: Source, *, code_revision: str | None = None, said: bool = True) -> object:
    """What a reference leads to.

    Args:
        said: whether the user has said in this call that the code may run; else it must have been accepted before.

    Raises: as :func:`class_named`.
    """
    repo = _foreign(asked, source)
    code = code_of(source, repo=repo, code_revision=code_revision)
    entry = code.files.repository.entry(asked.file)
    code.files.add(entry)
    code.files.check(entry)  # before anybody is asked about code that cannot run
    code.admit([entry], said=said)
    return importer.load(code.files, entry, asked.name)


def _home(source: Source, repo: str | None, code_revision: str | None) -> Repository:
    if repo is None:
        return Repository.of(source, code_revision)
    return Repository.elsewhere(repo, source, code_revision)


def _foreign(named: Reference, source: Source) -> str | None:
    """The other repository that a name leads to; None for the checkpoint's own."""
    return None if named.repo is None or (source.folder is None and named.repo == source.name) else named.repo


def named_by(source: Source) -> list[Reference]:
    """All code that the files of a checkpoint name; what is no name is left out: it matters when it is asked for."""
    found: list[Reference] = []
    for name in NAMING:
        try:
            path = source.find(name)
            raw = {} if path is None else read_json(path)
        except (ConfigError, RepoError):
            continue
        found += _names(_said(raw), name)
    return [*found, *_names(_steps(source), STEPS_FILE)]


def _names(said: Iterable[object], where: str) -> Iterator[Reference]:
    for text in said:
        try:
            yield Reference.parse(text, where)
        except OmniformError:
            continue


def _steps(source: Source) -> list[object]:
    """The classes of an embedding model's steps that are not the library's own."""
    try:
        path = source.find(STEPS_FILE)
        steps = [] if path is None else read_json_list(path)
    except (ConfigError, RepoError):
        return []
    kinds = [step.get("type") for step in steps if isinstance(step, dict)]
    return [kind for kind in kinds if not str(kind).startswith("sentence_transformers.")]


def _said(raw: Mapping[str, object]) -> list[object]:
    tasks = raw.get("custom_pipelines")
    values = [one for maps in maps_in(raw) for one in (maps.values() if isinstance(maps, Mapping) else [maps])]
    values = [one for value in values for one in (value.values() if isinstance(value, Mapping) else [value])]
    flat = [one for value in values for one in (value if isinstance(value, (list, tuple)) else [value])]
    infos = tasks.values() if isinstance(tasks, Mapping) else ()
    return [*flat, *(info.get("impl") for info in infos if isinstance(info, Mapping))]
