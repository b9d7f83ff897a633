"""`palate train`"""

from palate.cli.options import parse
from palate.errors import PalateError

DESCRIPTION = """Train a model as a YAML file says. The same command again goes on from the newest checkpoint.

Examples:
  palate train dedpo.yaml
  palate train dedpo.yaml --beta 2000 --seed 3 --output-dir runs/dedpo-3
  palate train dpo.yaml --method sdpo --recipe sd15
  palate train dedpo.yaml --dry-run          check everything, count labels and parameters, train nothing

Every key of the file is an option here, with its type and default; an option wins over the file."""


def main(argv: list[str]) -> None:
    from palate.run.config import TrainConfig
    from palate.run.load import load_config, read_config

    dry_run = "--dry-run" in argv
    options = [argument for argument in argv if argument != "--dry-run"]
    if options and not options[0].startswith("-"):
        start = read_config(options[0], **_preset(options[1:]))  # checked once, with the options
        config = load_config(parse(TrainConfig, options[1:], "train", DESCRIPTION, default=start))
    elif {"-h", "--help"} & set(options):
        config = parse(TrainConfig, options, "train", DESCRIPTION)
    else:
        raise PalateError(
            "train: give a YAML file first, as in `palate train dedpo.yaml`; `palate train --help` lists its keys."
        )

    from palate.command import said_as
    from palate.distributed import together
    from palate.verbs.models import train

    with together(), said_as(["palate", "train", *argv]):  # of several processes the first one prints
        run = train(config, dry_run=dry_run)
        if not dry_run:
            print(f"train: done, the model is in {run.model_path}. Next: palate compare {run.path} --prompts FILE")


def _preset(options: list[str]) -> dict[str, str]:
    """The method and the recipe given as options: they stand behind the file's keys, so they are needed before
    these."""
    found = {}
    for option, following in zip(options, [*options[1:], ""], strict=False):
        name, equals, value = option.removeprefix("--").partition("=")
        if option.startswith("--") and name in ("method", "recipe"):
            found[name] = value if equals else following
    return found
