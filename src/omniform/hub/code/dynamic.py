"""The ecosystem's functions for code in repositories, as ``omniform.dynamic_module_utils``.

They mean the same, and keep the same promise as the Auto classes: what runs was accepted by the user, byte for byte.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from omniform.core.errors import CodeError, InputError, RepoError, brief
from omniform.hub.code import copies, importer
from omniform.hub.code.closure import Files, Repository
from omniform.hub.code.imports import need_packages, read_code, scan
from omniform.hub.code.mode import mode_of, untrusted
from omniform.hub.code.named import in_sandbox, loaded
from omniform.hub.code.reference import Reference, code_file
from omniform.hub.code.requirements import check_python_requirements as check_python_requirements
from omniform.hub.code.saving import custom_object_save as custom_object_save
from omniform.hub.files import Source, locate

Name = str | os.PathLike[str]


def __getattr__(name: str) -> str:
    if name == "HF_MODULES_CACHE":
        return str(copies.modules_cache())
    raise AttributeError(name)


def init_hf_modules() -> None:
    """Make the modules cache, and let Python find what lies in it.

    omniform needs it for nothing: its own modules are found by their digest.
    """
    home = copies.modules_cache()
    if str(home) in sys.path:
        return
    create_dynamic_module("")
    sys.path.append(str(home))


def create_dynamic_module(name: Name) -> None:
    """Make a folder in the modules cache that is a package, and so all folders above it.

    Raises:
        CodeError: it would lie elsewhere.
        RepoError: it cannot be written.
    """
    home = copies.modules_cache()
    folder = home / name
    if not folder.resolve().is_relative_to(home.resolve()):
        raise CodeError("the name leads out of the modules cache", where="create_dynamic_module", found=str(name))
    try:
        for part in (folder, *folder.parents):
            part.mkdir(parents=True, exist_ok=True)
            (part / "__init__.py").touch()
            if part == home:
                break
    except OSError as error:
        raise RepoError("the modules cache cannot be written", where=str(folder), found=error.strerror) from error


def get_imports(filename: Name) -> list[str]:
    """The packages that a file needs; those in a ``try`` and behind ``if is_..._available()`` it does not."""
    return list(scan(read_code(filename), str(filename)).packages)


def get_relative_imports(module_file: Name) -> list[str]:
    """The modules beside a file that it imports, without the first dot (``"configuration"``, ``"sub.parts"``)."""
    found: dict[str, None] = {}
    for one in scan(read_code(module_file), str(module_file)).relative:
        dots = "." * (one.level - 1)
        for name in [one.module] if one.module else one.names:
            found[dots + name] = None
    return list(found)


def get_relative_import_files(module_file: Name) -> list[str]:
    """The files that a file needs from beside it, and these from beside them.

    Raises:
        RepoError: one is missing.
        CodeError: one is no Python, or lies elsewhere.
    """
    path = Path(module_file)
    files = Files(Repository(Source(name=str(path.parent), folder=path.parent)))
    closure = files.add(path.name)
    for file in closure:
        if file.fault is not None:
            raise file.fault
    return [str(path.parent / file.path) for file in closure if file.path != path.name]


def check_imports(filename: Name) -> list[str]:
    """The modules beside a file that it imports, if all packages that it needs are installed.

    Raises:
        DependencyError: names all that are not.
    """
    need_packages(get_imports(filename), str(filename))
    return get_relative_imports(filename)


def get_cached_module_file(
    pretrained_model_name_or_path: Name,
    module_file: str,
    cache_dir: Name | None = None,
    force_download: bool = False,
    proxies: dict[str, str] | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    repo_type: str | None = None,
    **kwargs: object,
) -> str:
    """Copy a file of code, and what it needs from beside it, to the modules cache; nothing runs.

    Args:
        module_file: its name in the folder or repository (``"modeling_mine.py"``).

    Returns:
        Its path below the modules cache, for :func:`get_class_in_module`.

    Raises:
        RepoError: it is missing, or the modules cache cannot be written.
        CodeError, DependencyError: it could not run.
    """
    _refuse(proxies, repo_type)
    source = locate(
        pretrained_model_name_or_path,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
        subfolder=_subfolder(kwargs),
    )
    home = Repository.of(source)
    files = Files(home)
    entry = home.entry(code_file(module_file, "get_cached_module_file"))
    files.add(entry)
    files.check(entry)
    homes = importer.homes_of(files, entry)
    for file in files.closure(entry):
        inner = {one.path: one.text for one in files.closure(file.path)}
        if copies.write(homes[file.path], inner) is None:
            raise RepoError("the modules cache cannot be written", where=str(copies.modules_cache()))
    return copies.path_of(homes[entry], entry).relative_to(copies.modules_cache()).as_posix()


def get_class_in_module(class_name: str, module_path: Name, *, force_reload: bool = False) -> object:
    """A class in a file of the modules cache, if the user has accepted it.

    Args:
        module_path: from :func:`get_cached_module_file`.
        force_reload: run it again.

    Raises:
        TrustError: nobody has said that it may run, or the copy was changed.
        CodeError: it cannot be imported, or has no such class.
    """
    parts = Path(module_path).as_posix().removesuffix(".py").split("/")
    if len(parts) < 4 or parts[0] != copies.FOLDER or not all(part.isidentifier() for part in parts[1:3]):
        raise CodeError("this is no file of the modules cache", where="module_path", found=brief(module_path))
    module = ".".join([importer.ROOT, *parts[1:]])
    if force_reload:
        sys.modules.pop(module, None)
    return importer.taken(module, class_name, str(module_path))


def get_class_from_dynamic_module(
    class_reference: str,
    pretrained_model_name_or_path: Name,
    cache_dir: Name | None = None,
    force_download: bool = False,
    proxies: dict[str, str] | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    repo_type: str | None = None,
    code_revision: str | None = None,
    trust_remote_code: bool | str | None = None,
    **kwargs: object,
) -> object:
    """A class in a file of a folder or a repository. The file runs.

    Args:
        class_reference: ``"file.Class"``, or ``"other/repo--file.Class"``.
        pretrained_model_name_or_path: the folder or repository that the first form means.
        revision: which version of it.
        code_revision: which version of the code, if another.
        trust_remote_code: True: it may run. By default it may if it was accepted before (by ``omniform trust``, or by
            loading something with True); at a terminal you are asked.
        kwargs: ``subfolder``.

    Raises:
        TrustError: nobody has said that it may run.
        RepoError, CodeError, DependencyError: it cannot.
    """
    _refuse(proxies, repo_type)
    mode = mode_of(trust_remote_code)
    asked = Reference.parse(class_reference, "class_reference")
    source = locate(
        pretrained_model_name_or_path,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
        subfolder=_subfolder(kwargs),
    )
    if trust_remote_code is False:
        raise untrusted(source.name, "this is code that the checkpoint brings", str(asked))
    if mode == "sandbox":
        in_sandbox(asked, source)
    return loaded(asked, source, code_revision=code_revision, said=mode == "here")


def resolve_trust_remote_code(
    trust_remote_code: bool | str | None,
    model_name: Name,
    has_local_code: bool,
    has_remote_code: bool,
    error_message: str | None = None,
    upstream_repo: str | None = None,
) -> bool | str | None:
    """Whether a checkpoint's code is to be used, given what the user says; nobody is asked.

    Args:
        has_local_code: whether the library has a class of its own for it.
        has_remote_code: whether the checkpoint brings one.
        error_message: what to say instead of our own words.
        upstream_repo: where the code lies, if elsewhere.

    Raises:
        TrustError: it cannot be loaded without its code, and the user has not said that it may run.
    """
    mode = mode_of(trust_remote_code)
    if has_remote_code and not has_local_code and mode == "never":
        problem = error_message or "the checkpoint cannot be loaded without code that it brings"
        found = f"code in {upstream_repo or os.fspath(model_name)}"
        raise untrusted(os.fspath(model_name), problem.strip(), found)
    return False if trust_remote_code is None and (has_local_code or has_remote_code) else trust_remote_code


def _refuse(proxies: object, repo_type: object) -> None:
    if proxies:
        raise InputError("proxies are set in the environment (HTTPS_PROXY)", where="proxies", found=brief(proxies))
    if repo_type not in (None, "model"):
        raise InputError("code is read from models' repositories", where="repo_type", found=brief(repo_type))


def _subfolder(kwargs: dict[str, object]) -> str:
    # The ecosystem's own callers hand on every keyword of from_pretrained; none of the others matters here.
    given = kwargs.get("subfolder") or ""
    if not isinstance(given, str) or os.path.isabs(given) or ".." in Path(given).parts:
        raise InputError("no folder inside the checkpoint", where="subfolder", found=brief(given))
    return given
