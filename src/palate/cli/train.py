"""`palate train`"""

from palate.cli.keys import merged, parse_keys
from palate.errors import PalateError
from palate.run.values import NEEDED

DESCRIPTION = """Train a model as a YAML file or options say. The same command again resumes from the newest checkpoint.

Examples:
  palate train dedpo.yaml
  palate train dedpo.yaml --beta 2000 --seed 3 --output-dir runs/dedpo-3
  palate train dpo.yaml --method sdpo --recipe sd15
  palate train --pretrained-model-name-or-path world --dataset prefs --output-dir runs/dpo --lora.rank 8
  palate train dedpo.yaml --dry-run          check everything, count labels and parameters, train nothing

Every key of the file is an option here; an option wins over the file. --no-KEY switches a key off that is true or
false, and none is what a key without a value has."""
DRY_RUN = "Check and count everything, and estimate memory and time; train and write nothing."


def main(argv: list[str]) -> None:
    given = parse_keys(argv, "train", DESCRIPTION, DRY_RUN)
    if given.file is None and any(not given.options.get(name) for name in NEEDED):
        needed = ", ".join(f"--{name.replace('_', '-')}" for name in NEEDED)
        raise PalateError(
            f"train: give a YAML file, as in `palate train dedpo.yaml`, or {needed}; `palate train --help` lists all"
            " keys."
        )
    from palate.run.load import load_config, read_yaml

    values = read_yaml(given.file) if given.file else {}
    config = load_config(merged(values, given.options), where=str(given.file or "train"))

    from palate.command import said_as
    from palate.distributed import together
    from palate.verbs.models import train

    with together(), said_as(["palate", "train", *argv]):  # of several processes the first one prints
        run = train(config, dry_run=given.dry_run)
        if not given.dry_run:
            print(f"train: done, the model is in {run.model_path}. Next: palate compare {run.path} --prompts FILE")
