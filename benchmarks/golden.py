"""Golden numbers: what palate computes before a change of its code that must change no result, and whether it still does.

python -m benchmarks.golden record before.json       about three minutes on one idle core
python -m benchmarks.golden check before.json        the same again; one line for each difference, exit code 1
python -m benchmarks.golden check before.json --only lora lists report

Everything is asked through the command line (`python -m palate ...`) and read from the files that its documentation names,
so this program runs unchanged before and after modules move. PYTHONPATH decides which source is run; the first line says
which one it is. What is recorded are numbers, names and hashes of contents. Not recorded are times, paths, versions,
ids that are drawn anew, the names of tensors and modules, and the wording of sentences (the numbers in them are).

Numbers are recorded in full and compared bit for bit, so a file holds for one machine and one set of libraries, and is
not committed: processors round differently. `check` says when the machine is another one.
"""

import importlib
import importlib.util
import json
import multiprocessing
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.golden_items import ITEMS, Failed, Record

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "scipy", "pandas", "pyarrow")
FIRST = (
    *LIBRARIES,
    "scipy.stats",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
    "diffusers.models.unets.unet_2d_condition",
)  # imported once, before any command

STREAMS = ("out.txt", "err.txt")  # of the last command


@dataclass
class Options:
    """Record what palate computes, or check that it still computes the same."""

    do: tyro.conf.Positional[Literal["record", "check"]]
    """record: write the file. check: compare with it."""
    file: tyro.conf.Positional[Path]
    """The JSON file of golden numbers."""
    only: tuple[str, ...] = ()
    """Only these items, and what they are made of; all when absent."""
    folder: Path | None = None
    """Work here, in an empty folder, and keep it; in a temporary one when absent."""


def main(options: Options) -> int:
    wanted = with_needs(options.only or tuple(ITEMS))
    before = json.loads(options.file.read_text()) if options.do == "check" else None
    print(f"golden: {importlib.util.find_spec('palate').origin}")
    start = time.monotonic()
    if options.folder:
        options.folder.mkdir(parents=True)
        records = measure(options.folder.resolve(), wanted)
    else:
        with tempfile.TemporaryDirectory() as folder:
            records = measure(Path(folder).resolve(), wanted)
    minutes = f"{(time.monotonic() - start) / 60:.1f} minutes"
    failed = [f"{name}: {record['failed']}" for name, record in records.items() if "failed" in record]
    if before is None:
        options.file.write_text(json.dumps({"machine": machine(), "items": records}, indent=1))
        print("\n".join([*failed, f"golden: {len(records)} items in {options.file}, {minutes}"]))
        return int(bool(failed))
    if before["machine"] != machine():
        print(f"golden: recorded on another machine: {before['machine']}; here {machine()}")
    expected = {name: record for name, record in before["items"].items() if name in records}
    changed = list(differences(expected, records))
    values = sum(1 for _ in leaves(records))
    print(
        "\n".join(
            [*changed, f"golden: {len(changed)} differences in {values} values of {len(records)} items, {minutes}"]
        )
    )
    return int(bool(changed or failed))


def with_needs(names: tuple[str, ...]) -> list[str]:
    """These items and all that they need, in the order of the list. Ends the program for a name that is not in it."""
    unknown = sorted(set(names) - set(ITEMS))
    if unknown:
        sys.exit(f"golden: no item {', '.join(unknown)}; there are {', '.join(ITEMS)}")
    wanted: set[str] = set()
    missing = set(names)
    while missing:
        wanted |= missing
        missing = {need for name in missing for need in ITEMS[name].needs} - wanted
    return [name for name in ITEMS if name in wanted]


def measure(folder: Path, names: list[str]) -> Record:
    """Run these items one after another in a folder; a record for each. One that fails says the last line of the command."""
    for module in FIRST:
        importlib.import_module(module)
    os.chdir(folder)
    records: Record = {}
    for name in names:
        start = time.monotonic()
        try:
            records[name] = ITEMS[name].measure(palate)
        except (Failed, OSError, KeyError, ValueError) as error:  # also what cannot be read as it is documented
            records[name] = {"failed": f"{type(error).__name__}: {error}"}
        said = f"golden: {name}, {time.monotonic() - start:.1f} s"
        print(said, records[name].get("failed", ""), file=sys.stderr, flush=True)
    return records


def palate(*arguments: str, fresh: bool = False, until: str | None = None) -> str:
    """What `python -m palate ARGUMENTS` prints. Raises Failed, with its last line, when it fails.

    A command is a fork of this process, in which the libraries are imported already: that is most of the time of a small
    command. `fresh` starts a process of its own, for commands that start others. A command that serves is ended when it
    has printed `until`.
    """
    for name in STREAMS:
        Path(name).write_text("")
    if fresh:
        with open(STREAMS[0], "w") as out, open(STREAMS[1], "w") as err:
            code = subprocess.run([sys.executable, "-m", "palate", *arguments], stdout=out, stderr=err).returncode
    else:
        process = multiprocessing.get_context("fork").Process(target=run_module, args=(arguments,))
        process.start()
        while until and process.is_alive() and until not in printed():
            time.sleep(0.05)
        served = bool(until) and process.is_alive()
        if served:
            process.terminate()
        process.join()
        code = 0 if served else process.exitcode
    if code:
        lines = [line for line in printed().splitlines() if line.strip()]
        raise Failed(f"palate {' '.join(arguments)} ended with {code}: {lines[-1] if lines else ''}")
    return Path(STREAMS[0]).read_text()


def printed() -> str:
    return "".join(Path(name).read_text() for name in STREAMS)


def run_module(arguments: tuple[str, ...]) -> None:
    """Be `python -m palate ARGUMENTS`, with both streams in files."""
    for stream, name in enumerate(STREAMS, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["palate", *arguments]
    runpy.run_module("palate", run_name="__main__", alter_sys=True)


def machine() -> dict[str, str]:
    """What rounding depends on, as far as it can be asked."""
    info = Path("/proc/cpuinfo")
    model = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    processor = model[0].split(":", 1)[1].strip() if model else platform.processor()
    return {"processor": processor, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """A line for each value that is not what it was, bit for bit, or stands on one side only."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            path = f"{where} / {key}" if where else str(key)
            if key not in after:
                yield f"{path}: gone, was {short(before[key])}"
            elif key not in before:
                yield f"{path}: new, {short(after[key])}"
            else:
                yield from differences(before[key], after[key], path)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{where}[{index}]")
    elif json.dumps(before) != json.dumps(after):  # as text: NaN equals itself, 0.0 is not -0.0, and 1 is not true
        yield f"{where}: {short(before)} -> {short(after)}"


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def environment() -> dict[str, str]:
    """One thread, no GPU, no network; PYTHONPATH holds in other folders, too."""
    fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.environ | fixed | {"PYTHONPATH": os.pathsep.join(paths)}


if __name__ == "__main__":
    if environment() != os.environ:  # libraries read it when they are imported, which is behind us
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.golden", *sys.argv[1:]], environment())
    sys.exit(main(tyro.cli(Options)))
