"""The keys of a training as options of the command line, for the verbs that take its configuration."""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml

from palate.errors import PalateError, did_you_mean
from palate.run.config import LoraOptions, TrainConfig
from palate.run.keys import Key, default_of, help_of_keys, key_of
from palate.run.values import ELSEWHERE, NESTED, choices_of, none_allowed, parts_of, typed

DRY_RUN = "--dry-run"
WIDTH = 110  # columns of the help where the terminal has more


@dataclass(frozen=True)
class Given:
    """What a command line says: the file, and the keys that are options on it, checked for their types."""

    file: Path | None
    options: dict[str, Any]  # a nested key holds a dict of those of its keys that were given
    dry_run: bool


def parse_keys(argv: list[str], verb: str, description: str, dry_run: str) -> Given:
    """The file and the keys of a command line; `--help` prints the description and all keys under their headings, and
    ends the process. Raises PalateError for an option that there is none of, and for a value of another type."""
    parser = _Parser(verb, description, dry_run)
    argv = [_hyphens(argument) for argument in argv]
    file = argv.pop(0) if argv and not argv[0].startswith("-") else None
    found, rest = parser.parse_known_args(argv)
    given = vars(found)
    if unknown := next((argument for argument in rest if argument.startswith("-")), None):
        raise PalateError(f"{verb}: {_no_option(unknown, parser.names)}")
    for extra in [*given.pop("CONFIG", []), *rest]:
        if file is not None:
            raise PalateError(f"{verb}: {extra!r} belongs to no option. Give one file, and options as --key value.")
        file = extra
    told = given.pop("dry_run", False)
    return Given(Path(file) if file is not None else None, _of_types(given), told)


def merged(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The keys of a file with options over them; of nested keys each one for itself."""
    both = dict(values)
    for name, value in options.items():
        before = both.get(name)
        both[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return both


class _Parser(argparse.ArgumentParser):
    def __init__(self, verb: str, description: str, dry_run: str):
        width = min(WIDTH, shutil.get_terminal_size().columns)
        super().__init__(
            f"palate {verb}",
            usage=f"palate {verb} [CONFIG] [{DRY_RUN}] [--KEY VALUE ...]",
            description=f"{description}\n\nWhat people change first:\n{_first_lines(width)}",
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=width),
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        self._verb = verb
        about = self.add_argument_group("The command")
        about.add_argument("CONFIG", nargs="*", help="A YAML file with keys; options win over it. Options do without.")
        about.add_argument(DRY_RUN, action="store_true", help=dry_run)
        groups: dict[str, Any] = {}
        self.names = [DRY_RUN, "--help"]
        for inside, field, key, text in _all_keys():
            if key.group not in groups:
                groups[key.group] = self.add_argument_group(key.group)
            self.names += _add(groups[key.group], inside, field, key, text)

    def error(self, message: str) -> NoReturn:
        raise PalateError(f"{self._verb}: {message.removeprefix('argument ')}; `palate {self._verb} --help` shows all.")


def _all_keys() -> Iterator[tuple[str, Field[Any], Key, str]]:
    """Every key with what holds it ("" for most), what it declares, and its sentence; nested ones behind the key that
    holds them."""
    texts = help_of_keys(TrainConfig)
    for field in fields(TrainConfig):
        yield "", field, key_of(field), texts[field.name]
        if field.name in NESTED:
            nested = help_of_keys(NESTED[field.name])
            for inner in fields(NESTED[field.name]):
                yield field.name, inner, key_of(inner), nested[inner.name]


def _add(group: Any, inside: str, field: Field[Any], key: Key, text: str) -> list[str]:
    """Add the option of one key; returns its names."""
    name = _option(inside, field.name)
    dest = f"{inside}.{field.name}" if inside else field.name
    told = f"{text} ({_facts(field, key)})".replace("%", "%%")
    kinds = parts_of(field.type)
    if bool in kinds or field.name in NESTED:
        off = f"--no-{name.removeprefix('--')}"
        group.add_argument(name, dest=dest, nargs="?", const=True, metavar="true|false", help=told)
        group.add_argument(off, dest=dest, action="store_const", const=False, help=argparse.SUPPRESS)
        return [name, off]
    several = any(get_origin(kind) in (tuple, dict) for kind in kinds)
    group.add_argument(name, dest=dest, nargs="+" if several else None, metavar=_metavar(field.type), help=told)
    return [name]


def _of_types(given: dict[str, Any]) -> dict[str, Any]:
    """The options in the types of their keys, as a configuration nests them."""
    options: dict[str, Any] = {}
    for dest, text in given.items():
        inside, _, name = dest.rpartition(".")
        kind = NESTED[inside] if inside else TrainConfig
        value = typed({name: _read(name, text, kind)}, kind, "", inside)[name]
        if not inside:
            options[name] = value
        elif isinstance(held := options.setdefault(inside, {}), dict):
            held[name] = value
        else:
            raise PalateError(f"{_option('', inside)}: give it, or keys of it ({_option(inside, name)}), not both.")
    return options


def _read(name: str, text: Any, kind: type[TrainConfig] | type[LoraOptions]) -> Any:
    """The words of an option as a file would give them."""
    type_ = next(field.type for field in fields(kind) if field.name == name)
    words = text if isinstance(text, list) else [text]
    takes_names = any(get_origin(part) is dict for part in parts_of(type_))
    if len(words) == 1 and isinstance(words[0], str):
        if words[0].lower() in ("none", "null") and none_allowed(type_) and words[0] not in choices_of(type_):
            return None
        if words[0].startswith("{") and (takes_names or name in NESTED):
            return _flow(name, words[0])
    if takes_names and len(words) % 2 == 0:
        return dict(zip(words[::2], words[1::2], strict=True))
    return text


def _flow(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PalateError(f"{_option('', name)}: not valid YAML ({' '.join(str(error).split())}).") from error


def _no_option(unknown: str, names: list[str]) -> str:
    option = unknown.partition("=")[0]
    here = ELSEWHERE.get(option.removeprefix("--").replace("-", "_"))
    return f"there is no option {option!r}" + (f"; {here}." if here else did_you_mean(option, names))


def _hyphens(argument: str) -> str:
    """--learning_rate as --learning-rate."""
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value if option.startswith("--") else argument


def _option(inside: str, name: str) -> str:
    return "--" + ".".join(part for part in (inside, name) if part).replace("_", "-")


def _metavar(kind: Any) -> str:
    words = []
    for part in parts_of(kind):
        if get_origin(part) is Literal:
            words.append("|".join(get_args(part)))
        elif get_origin(part) is dict:
            words.append("NAME NUMBER")
        elif get_origin(part) is tuple:
            words.append("TEXT" if get_args(part)[0] is str else "INT")
        else:
            words.append({int: "INT", float: "FLOAT", str: "TEXT"}[part])
    return "|".join(dict.fromkeys(words))


def _facts(field: Field[Any], key: Key) -> str:
    """Unit, bounds and default."""
    default = default_of(field)
    if key.low is not None and key.high is not None and key.high < 1e9:
        bounds = f"{key.low:g} to {key.high:g}"
    else:
        bounds = f"at least {key.low:g}" if key.low else ""
    if default is MISSING:
        usual = "must be given"
    elif isinstance(default, dict):
        usual = "default " + " ".join(f"{name} {value}" for name, value in default.items())
    elif isinstance(default, tuple):
        usual = "default " + " ".join(map(str, default))
    else:
        usual = f"default {'none' if default is None else str(default).lower()}"
    return "; ".join(part for part in (key.unit, bounds, usual) if part)


def _first_lines(width: int) -> str:
    """The keys that people change first, a line each."""
    lines = []
    for inside, field, key, text in _all_keys():
        if key.first:
            line = f"  {_option(inside, field.name):<31}{text.partition('. ')[0].partition(' (')[0].rstrip('.')}"
            lines.append(line if len(line) <= width else line[: width - 2] + " …")
    return "\n".join(lines)
