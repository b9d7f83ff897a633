"""`palate encode`"""

import shlex

from palate.cli.keys import DRY_RUN, merged, parse_keys
from palate.errors import PalateError

DESCRIPTION = """\
Compute before training what training would compute: latents and embeddings of all pairs, and with reference_draws the
reference's errors at addressed draws, which every run of a sweep over methods, beta and seeds then shares.
Interrupted? The same command resumes.

Examples:
  palate encode dpo.yaml
  palate encode dpo.yaml --reference-draws 8
  palate train dpo.yaml --reference precomputed --reference-draws 8
  palate encode --pretrained-model-name-or-path world --dataset prefs
  palate encode dpo.yaml --reference-draws 8 --dry-run      count what is there and what is not, compute nothing

The keys are those of palate train: a file, options, or both."""


def main(argv: list[str]) -> None:
    given = parse_keys(argv, "encode", DESCRIPTION, "Count what is there and what is not; compute nothing.")
    from palate.run.load import load_config, read_yaml

    values = merged(read_yaml(given.file) if given.file else {}, given.options)
    if given.file is None and not (values.get("pretrained_model_name_or_path") and values.get("dataset")):
        raise PalateError(
            "encode: give a YAML file, as in `palate encode dpo.yaml`, or --pretrained-model-name-or-path and"
            " --dataset."
        )
    config = load_config({"output_dir": "runs"} | values, where=str(given.file or "encode"))  # nothing is written there
    from palate.training.encode import encode, plan

    if given.dry_run:
        todo = plan(config)
        print(f"dry run: {todo['to encode']:,} of {todo['pairs']:,} pairs would be encoded")
        if todo["draws"]:
            print(
                f"dry run: {todo['to compute']:,} errors of the reference would be computed, at {todo['draws']} draws"
                " of each pair"
            )
        return
    done = encode(config)
    print(f"encode: {done['pairs']} pairs are encoded")
    if done["draws"]:
        words = [argument for argument in argv if argument != DRY_RUN]
        place = 1 if words and not words[0].startswith("-") else 0  # behind the file
        words[place:place] = [] if "reference" in given.options else ["--reference", "precomputed"]
        print(
            f"encode: the reference's errors at {done['draws']} draws of each pair are there, {done['computed']} of"
            f" them computed now. Next: palate train {shlex.join(words)}"
        )
