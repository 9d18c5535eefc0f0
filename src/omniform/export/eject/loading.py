"""The file's ``load``: a checkpoint's tensors, by whatever names and in whatever layout they lie there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from omniform.export.eject.weights import NUMBER, Place, Renames, renames

OLD = [
    (r"^(_orig_mod|module)\.", ""),
    (r"(LayerNorm|layer_norm|layernorm)\.gamma$", r"\1.weight"),
    (r"(LayerNorm|layer_norm|layernorm)\.beta$", r"\1.bias"),
]

READ = '''
def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint: of its one file, or of its shards."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}
'''


def load_text(
    model: str,
    places: Sequence[Place],
    *,
    ties: Mapping[str, str],
    prefixes: Sequence[str],
    aliases: Sequence[tuple[str, str]],
    computed: Sequence[str],
) -> str:
    """``load`` and its tables.

    Args:
        model: the class that is loaded.
        ties: tensors that are one with another, in most checkpoints.
        prefixes: what checkpoints of a base model lack, or have too many.
        computed: classes whose tensors follow from the config, so that a checkpoint may lack them.
    """
    found = renames(places)
    parts = [_tables(found, aliases, prefixes), READ]
    parts.append(_find_text(bool(found.names), bool(prefixes), bool(aliases)))
    if found.others:
        parts.append(_gather_text())
    if computed:
        kinds = ", ".join(computed)
        parts.append(f'COMPUTED = ({kinds},)\n"""What follows from the config where a checkpoint does not hold it."""')
    parts.append(_load(model, bool(found.others), bool(found.names), bool(aliases), ties, bool(computed)))
    return "\n\n\n".join(part.strip("\n") for part in parts if part.strip("\n"))


def _tables(found: Renames, aliases: Sequence[tuple[str, str]], prefixes: Sequence[str]) -> str:
    lines: list[str] = []
    if found.names:
        lines.append("RENAMES = [")
        for mine, theirs in sorted(found.names.items(), key=lambda pair: -len(pair[0])):
            lines.append(f"    ({_pattern(mine)!s}, {_replacement(mine, theirs)!s}),")
        words = "How a checkpoint calls what the model calls otherwise, by the beginning of the model's name."
        lines += ["]", f'"""{words}"""', ""]
    if found.others:
        lines.append("LAYOUT: dict[str, list[tuple[Any, ...]]] = {")
        held: dict[str, list[Place]] = {}
        for place in found.others:
            held.setdefault(place.ours, []).append(place)
        for ours, places in held.items():
            lines.append(f"    {ours!r}: [")
            for p in places:
                take = f"lambda t, config: {p.take}" if p.take else "None"
                put = f"lambda t, config, n: {p.put}" if p.put else "None"
                lines.append(f"        ({p.key!r}, {take}, {put}, {p.each}),")
            lines.append("    ],")
        words = "Tensors that lie otherwise in a checkpoint: the key there, what part of that tensor it is, what part"
        lines += ["}", f'"""{words}', 'of ours, and how many such parts there are."""', ""]
    if aliases:
        lines.append("OLD_NAMES = [")
        lines.extend(f"    (r{json_text(a)}, r{json_text(b)})," for a, b in aliases)
        lines += ["]", '"""Old spellings of a checkpoint\'s keys, and what they mean now."""', ""]
    if prefixes:
        lines += [
            f"PREFIXES = {tuple(prefixes)!r}",
            '"""What some checkpoints put in front of their keys, and others do not."""',
        ]
    return "\n".join(lines)


def json_text(text: str) -> str:
    """A raw string's text with its quotes."""
    return f'"{text}"' if '"' not in text else repr(text)


def _pattern(template: str) -> str:
    body = re.sub(r"\\\{(\w)\\\}", r"(\\d+)", re.escape(template).replace("\\_", "_"))
    return f'r"^{body}(?=\\.|$)"'


def _replacement(mine: str, theirs: str) -> str:
    order = re.findall(r"\{(\w)\}", mine)
    return 'r"' + re.sub(r"\{(\w)\}", lambda m: f"\\{order.index(m[1]) + 1}", theirs) + '"'


def _find_text(renamed: bool, prefixed: bool, aliased: bool) -> str:
    lines = [
        "def find(tensors: dict[str, Tensor], key: str) -> Tensor | None:",
        '    """A checkpoint\'s tensor, under its key or one that means the same."""',
    ]
    lines.append("    if key in tensors:")
    lines.append("        return tensors[key]")
    if prefixed:
        lines += [
            "    for prefix in PREFIXES:",
            '        for other in (f"{prefix}.{key}", key.removeprefix(f"{prefix}.")):',
            "            if other in tensors:",
            "                return tensors[other]",
        ]
    lines.append("    return None")
    if renamed:
        lines += [
            "",
            "",
            "def checkpoint_key(name: str) -> str:",
            '    """What a checkpoint calls one of the model\'s tensors."""',
            "    for ours, theirs in RENAMES:",
            "        if re.search(ours, name):",
            "            return re.sub(ours, theirs, name)",
            "    return name",
        ]
    if aliased:
        lines += [
            "",
            "",
            "def today(key: str) -> str:",
            '    """What a checkpoint\'s key is called now."""',
            "    for old, new in OLD_NAMES:",
            "        key = re.sub(old, new, key)",
            "    return key",
        ]
    return "\n".join(lines)


def _gather_text() -> str:
    return '''
def gather(tensors: dict[str, Tensor], name: str, empty: Tensor, config: Config) -> Tensor | None:
    """One of the model's tensors, made of what lies otherwise in a checkpoint; None where that does not hold it."""
    numbers = re.findall(r"(?<=\\.)\\d+(?=\\.|$)", name)
    letters = iter("ijkl")
    template = re.sub(r"(?<=\\.)\\d+(?=\\.|$)", lambda _: "{" + next(letters) + "}", name)
    made = None
    for key, take, put, count in LAYOUT.get(name, LAYOUT.get(template, [])):
        for n in range(max(count, 1)):
            tensor = find(tensors, key.format(n=n, **dict(zip("ijkl", numbers, strict=False))))
            if tensor is None:
                return None
            part = tensor if take is None else take(tensor, config)
            if put is None:
                return part
            made = torch.empty(empty.shape, dtype=part.dtype) if made is None else made
            put(made, config, n).copy_(part)
    return made
'''


TIE = '''
def tied_to(name: str) -> str:
    """The tensor that one is tied to; empty for one that is not."""
    found = [owner for pattern, owner in TIED.items() if re.fullmatch(pattern, name) and name != owner]
    return found[0] if found else ""


def tie(model: nn.Module, apart: Collection[str] = ()) -> None:
    """Make tensors one that are one; those in ``apart`` keep their own."""
    for name in list(model.state_dict()):
        if tied_to(name) and name not in apart:
            module, _, attribute = name.rpartition(".")
            source, _, held = tied_to(name).rpartition(".")
            setattr(model.get_submodule(module), attribute, getattr(model.get_submodule(source), held))
'''


def tied_text(ties: Mapping[str, str]) -> str:
    """The table of tensors that are one, and what makes them so."""
    lines = ["TIED = {", *(f"    {pattern}: {owner!r}," for pattern, owner in tied_patterns(ties).items()), "}"]
    lines.append('"""Tensors that are one with another, as regular expressions of their names."""')
    return "\n".join(lines) + "\n\n\n" + TIE.strip("\n")


def tied_patterns(ties: Mapping[str, str]) -> dict[str, str]:
    """Ties by patterns: what is tied in every layer is one of them."""
    groups: dict[str, dict[str, str]] = {}
    for name, owner in ties.items():
        groups.setdefault(NUMBER.sub("#", name), {})[name] = owner
    found: dict[str, str] = {}
    for held in groups.values():
        told = _telling(held)
        for name, owner in held.items():
            count = iter(range(len(name)))
            text = NUMBER.sub(lambda n, told=told, count=count: n[0] if next(count) in told else r"\d+", name)  # type: ignore[misc]
            found.setdefault('r"' + text.replace(".", r"\.") + '"', owner)
    return found


def _telling(ties: Mapping[str, str]) -> set[int]:
    """Which of the numbers in names tell whom they are tied to: none, one, or all of them."""
    numbers = {name: NUMBER.findall(name) for name in ties}
    count = len(next(iter(numbers.values())))
    for told in (set(), *({i} for i in range(count))):
        if len({(*(held[i] for i in told), ties[name]) for name, held in numbers.items()}) == len(
            {tuple(held[i] for i in told) for held in numbers.values()}
        ):
            return told
    return set(range(count))


def _load(model: str, gathers: bool, renamed: bool, aliased: bool, ties: Mapping[str, str], resets: bool) -> str:
    lines = [
        f"def load(folder: str | Path, config: Config | None = None) -> {model}:",
        '    """The model with the weights in a checkpoint\'s folder, ready to be asked.',
        "",
        "    Args:",
        "        config: the folder's own by default.",
        "",
        "    Raises:",
        "        KeyError: the checkpoint lacks a tensor.",
        '    """',
        '    config = Config.from_json(Path(folder) / "config.json") if config is None else config',
        '    with torch.device("meta"):',
        f"        model = {model}(config)",
        "    tensors = read_tensors(folder)",
    ]
    if aliased:
        lines[-1:] = [
            "    read = read_tensors(folder)",
            "    tensors = {today(key): tensor for key, tensor in read.items()} | read",
        ]
    lines += ["    state: dict[str, Tensor] = {}", "    missing: list[str] = []"]
    empty = "empty" if gathers else "_"
    head = "    for name, empty in model.state_dict().items():" if gathers else "    for name in model.state_dict():"
    lines.append(head)
    key = "checkpoint_key(name)" if renamed else "name"
    found = f"find(tensors, {key})"
    if gathers:
        lines += [
            "        tensor = gather(tensors, name, empty, config)",
            "        if tensor is None:",
            f"            tensor = {found}",
        ]
    else:
        lines.append(f"        tensor = {found}")
    lines += [
        "        if tensor is None:",
        "            missing.append(name)",
        "        else:",
        "            state[name] = tensor",
    ]
    if ties:
        lines += _untied_lines()
    lines.append("    model.load_state_dict(state, strict=False, assign=True)")
    if ties:
        lines.append("    tie(model, apart)")
    if resets:
        lines += [
            "    for path, module in model.named_modules():",
            '        names = [name for name in missing if name.rpartition(".")[0] == path]',
            "        if names and isinstance(module, COMPUTED):",
            '            module.to_empty(device="cpu", recurse=False)',
            "            module.reset()",
            "            missing = [name for name in missing if name not in names]",
        ]
    lines += ["    if missing:", '        raise KeyError(f"the checkpoint lacks {missing}")']
    lines.append("    return model.eval()")
    _ = empty
    return "\n".join(lines)


def _untied_lines() -> list[str]:
    return [
        "    # Where a checkpoint holds what is usually one as two with other values, they were trained apart.",
        "    owners = {name: tied_to(name) for name in state if tied_to(name)}",
        "    for name, owner in owners.items():",
        "        state.setdefault(owner, state[name])",
        "    apart = [name for name, owner in owners.items() if not torch.equal(state[name], state[owner])]",
        "    missing = [name for name in missing if name not in state and not tied_to(name)]",
    ]
