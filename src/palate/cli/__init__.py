"""The command line: `palate VERB ...`. Each verb is one short file; nothing heavy loads before a verb is chosen."""

import importlib
import logging
import os
import sys
import threading
import traceback

from palate.errors import PalateError, did_you_mean
from palate.files import is_disk_full

# verb -> module in this folder, one line of help
VERBS = {
    "demo": ("demo", "from imperfect votes to a better model, in minutes, nothing downloaded"),
    "import": ("import_", "bring pairs and votes in: Pick-a-Pic, folders, JSONL, rankings, TRL"),
    "info": ("info", "what a dataset holds: sources, annotators, ties, image sizes"),
    "label": ("label", "a page to vote on, for you or a team; every vote stored at once"),
    "votes": ("votes", "votes from the page into the dataset; Label Studio in and out"),
    "annotate": ("annotate", "programs that vote: reward models, vision-language models, a trained run, plug-ins"),
    "audit": ("audit", "how far each source of votes can be trusted, and what more votes would buy"),
    "encode": ("encode", "latents, embeddings and the reference's errors, computed once for all runs"),
    "train": ("train", "train a model as a configuration says; the same command again resumes"),
    "methods": ("methods", "the methods of the literature, and what each one sets"),
    "sample": ("sample", "make pictures from prompts, the same noise for every model"),
    "score": ("score", "a number per picture: reward models, the world's truth, drift and diversity"),
    "compare": ("compare", "paired win rates with 95 % intervals"),
    "report": ("report", "one html page with pictures, numbers and curves; the model card"),
    "export": ("export", "the trained model for diffusers, ComfyUI and A1111: adapters, fused, one file"),
    "push": ("push", "the trained model and its card to the hub, private unless told otherwise"),
}
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    """Run one verb. Exit code 0; 1 for a refused request or bad input, in one line; 130 for Ctrl-C."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
        logging.ERROR
    )  # where it is installed, it misses what nobody needs here
    threading.excepthook = _in_a_thread
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from palate.version import __version__

        print(f"palate {__version__}")
        return
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            raise PalateError(f"there is no verb {verb!r}{did_you_mean(verb, VERBS, '`palate --help` lists them.')}")
        importlib.import_module(f"palate.cli.{VERBS[verb][0]}").main(rest)
    except PalateError as error:
        if os.environ.get("PALATE_TRACE"):
            traceback.print_exception(error)
        sys.exit(f"palate: {error}")
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except BrokenPipeError:
        os._exit(0)  # the reader of our output has gone, as with `| head`
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which only some verbs have loaded
            sys.exit(
                "palate: the GPU's memory is full. What was finished is kept. Less is needed with mixed_precision:"
                " bf16, weight_dtype: bf16, gradient_checkpointing: true or a smaller train_batch_size; for sampling,"
                " with --mixed-precision bf16 or a smaller --batch-size."
            )
        if not is_disk_full(error):
            raise
        sys.exit("palate: the disk is full. What was finished is kept; free some space, then the same command goes on.")


def _in_a_thread(told: threading.ExceptHookArgs) -> None:
    """A full disk is told once, by the main thread, which meets it, too (TensorBoard writes in a thread)."""
    if told.exc_value is None or not is_disk_full(told.exc_value):
        threading.__excepthook__(told)


def _interrupted() -> int:
    print("\npalate: interrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)
    return 130


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10}{line}" for verb, (_, line) in VERBS.items())
    return f"""palate: align text-to-image diffusion models from labels that nobody fully trusts

usage: palate VERB [options]        palate VERB --help shows an example

{verbs}

Start with `palate demo`."""
