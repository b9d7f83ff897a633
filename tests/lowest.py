"""Prints the lowest versions that pyproject.toml allows, as constraints for pip: `make test-lowest` installs these."""

import re
import tomllib
from pathlib import Path


def lowest(pyproject: dict) -> list[str]:
    """`name==version` for every requirement `name>=version`, the extras' ones too except the tools of development.

    Raises ValueError for a requirement without a lower bound.
    """
    project = pyproject["project"]
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name != "dev"}
    wanted = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    pins = []
    for requirement in wanted:
        if requirement.startswith(f"{project['name']}["):  # the extras that another one takes in
            continue
        bound = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
        if not bound:
            raise ValueError(f"{requirement}: give a lower bound, NAME>=VERSION")
        pins.append("==".join(bound.groups()))
    return pins


if __name__ == "__main__":
    print(*lowest(tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))), sep="\n")
