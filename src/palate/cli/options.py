"""What the verbs share: options from arguments, with examples in the help."""

from typing import TypeVar

import tyro

T = TypeVar("T")


def parse(kind: type[T], argv: list[str], verb: str, description: str, default: T | None = None) -> T:
    """The options of a verb from its arguments; `--help` prints the description with its examples, and every option."""
    return tyro.cli(
        kind,
        args=argv,
        prog=f"palate {verb}",
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
        **({} if default is None else {"default": default}),
    )
