"""`palate annotate`"""

import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from palate.cli.options import parse
from palate.cli.settings import settings
from palate.foreign import printable

if TYPE_CHECKING:
    from palate.judges.annotate import Report

DESCRIPTION = """\
A program votes on the pairs of a dataset. Interrupted? The same command resumes; a second run costs nothing.

Judges:
  clip, pickscore, hpsv2.1, aesthetic, imagereward   reward models; --model is a local folder, or a hub name
  vlm                                                a vision-language model behind an OpenAI-compatible --server
  self:RUN                                           a trained run, by its implicit reward; no pair whose human vote
                                                     it was trained on, unless the run has folds (self:CONFIG.yaml)
  world, brightness, sharpness, ...                  the small world's truth, statistics of pictures
  NAME                                               a plug-in (entry point group palate.judges)

Examples:
  palate annotate prefs --judge pickscore
  palate annotate prefs --judge hpsv2.1 --model weights/hpsv2.1 --dtype bf16
  palate annotate prefs --judge aesthetic --model weights/clip-l --set head=sac+logos+ava1-l14-linearMSE.pth
  palate annotate prefs --judge vlm --server http://127.0.0.1:8000/v1 --limit 100
  palate annotate prefs --judge vlm --question alignment
  palate annotate prefs --judge vlm --rubric rubric.yaml
  palate annotate prefs --judge pickscore --recalibrate     after more human votes; no judge is run"""


@dataclass
class Options:
    dataset: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset."""
    judge: str
    """Who votes."""
    name: str | None = None
    """The annotator id of its votes; when absent the judge's name, vlm:MODEL for vlm, self:FOLDER's name for
    self:FOLDER."""
    model: str | None = None
    """Weights: a local folder or file, or a hub name; for vlm, the model's name on the server."""
    server: str | None = None
    """Address of the server of a vlm, up to /v1. Its key is read from OPENAI_API_KEY."""
    template: str | None = None
    """For vlm: a text file with {prompt}, {first} and {second} in place of palate's own."""
    question: str = "overall"
    """What its votes answer: alignment, aesthetics, any name; for vlm also "name: the question to it"."""
    rubric: Path | None = None
    """For vlm: a YAML file of names and questions that it answers too, one by one; its correction weighs them."""
    device: str | None = None
    """cuda, cuda:1, cpu; a GPU where there is one when absent."""
    dtype: Literal["fp32", "fp16", "bf16"] | None = None
    """fp16 on a GPU and fp32 elsewhere when absent."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A further setting of the judge, as key=value; may be given several times."""
    temperature: float | None = None
    """What score differences are divided by before they become a probability; the judge's own when absent, mostly 1."""
    batch_size: int | None = None
    limit: int | None = None
    """Stop after so many pairs."""
    engine: Literal["local", "ray"] = "local"
    """Where judges run: in this process, or on Ray."""
    workers: int = 1
    """With ray: how many judges."""
    gpus: float = 0.0
    """With ray: GPUs that each judge reserves."""
    embeddings: Literal["auto", "all", "none"] = "auto"
    """Store embeddings of the pictures, for the corrected judge. auto: if voting computes them anyway; all: also of
    pairs judged before, and for judges that need extra work for it."""
    again: bool = False
    """Ignore stored answers and ask again about every pair without a vote. Votes in the dataset do not change."""
    recalibrate: bool = False
    """Run no judge; fit the calibration of existing votes again."""
    prompt_price: float = 0.0
    """Price of a million prompt tokens, to print the cost."""
    completion_price: float = 0.0
    """Price of a million completion tokens, to print the cost."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "annotate", DESCRIPTION)
    from palate.command import said_as
    from palate.verbs.data import annotate

    quiet = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    with quiet, said_as(["palate", "annotate", *argv]):  # folds in training print
        done = annotate(
            options.dataset,
            options.judge,
            name=options.name,
            model=options.model,
            server=options.server,
            template=options.template,
            question=options.question,
            rubric=options.rubric,
            device=options.device,
            dtype=options.dtype,
            settings=settings(options.set),
            temperature=options.temperature,
            batch_size=options.batch_size,
            limit=options.limit,
            engine=options.engine,
            workers=options.workers,
            gpus=options.gpus,
            embeddings=options.embeddings,
            again=options.again,
            recalibrate=options.recalibrate,
        )
    report, calibration = done.report, done.calibration
    for criterion, own in (report.rubric if report else {}).items():
        if not options.json:
            print(
                printable(
                    "\n".join(
                        line.replace("annotate:", f"annotate: rubric {criterion}:", 1)
                        for line in lines(own, options.prompt_price, options.completion_price)
                    )
                )
            )
    if options.json:
        told = report or (calibration and calibration.after)
        print(json.dumps(asdict(told) if told else None))
        return
    if report:
        print(printable("\n".join(lines(report, options.prompt_price, options.completion_price))))
    if calibration is None:
        print("annotate: too few pairs with human votes to say how far this judge can be trusted (10 are needed)")
    else:
        print(f"annotate: {calibration.sentence()}")


def lines(report: "Report", prompt_price: float = 0.0, completion_price: float = 0.0) -> list[str]:
    """The counts in words."""
    counts = {
        "voted before": report.already_voted,
        "judged now": report.judged,
        "answered in an earlier run": report.from_answers,
        "failed": report.failed,
        "unreadable": report.unreadable,
        "left for later": report.left_for_later,
        "left out, its training saw their human votes": report.in_sample,
    }
    told = " · ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    out = [f"annotate: {report.pairs:,} pairs: {told}"]
    if report.single_images:
        out.append(f"annotate: {report.single_images:,} single images have nothing to compare and are left out")
    if report.votes:
        zero, one, tie = (report.choices[choice] for choice in ("0", "1", "tie"))
        out.append(
            f"annotate: {report.votes:,} votes of {report.annotator} · image 0 {zero:,} · image 1 {one:,} · ties"
            f" {tie:,}"
        )
        if report.votes >= 20 and report.votes in (zero, one):
            out.append("annotate: all of them for the same side; was the better image always stored there?")
    if report.embedded:
        out.append(f"annotate: {report.embedded:,} pictures embedded, for the correction of judges")
    if report.first_failure:
        out.append(f"annotate: first problem: {report.first_failure}; the same command tries again")
    if report.first_shown is not None:
        out.append(
            f"annotate: the picture shown first gets {report.first_shown:.0%} on average (both orders were asked)"
        )
    if report.usage:
        prompt, completion = (report.usage.get(f"{kind}_tokens", 0) for kind in ("prompt", "completion"))
        price = (prompt * prompt_price + completion * completion_price) / 1e6
        retried = f" ({report.usage['retries']:,} retries)" if report.usage.get("retries") else ""
        cost = f" · {price:.2f} at these prices" if price else ""
        unclear = report.usage.get("no_answer", 0)
        retried += f" ({unclear:,} replies were no answer)" if unclear else ""
        out.append(
            f"annotate: {report.usage.get('requests', 0):,} requests{retried} · {prompt:,} prompt tokens · "
            f"{completion:,} completion tokens{cost}"
        )
    return out
