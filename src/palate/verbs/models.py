"""The verbs that work on a model: train, sample, score, compare, report, export and push."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from palate.errors import PalateError
from palate.verbs.given import Place, Places, Prompts, names, opened, places, plain_keys, without_none

if TYPE_CHECKING:
    from palate.data.samples import Samples, Sampling
    from palate.demos.mine import Mine
    from palate.evaluation.contest import Contest
    from palate.evaluation.results import Comparison
    from palate.evaluation.score import Scored
    from palate.presets import Method
    from palate.reports.parts import Page
    from palate.run.config import TrainConfig
    from palate.sharing.export import Format
    from palate.sharing.push import Sending
    from palate.training.loop import Run


@overload
def methods(name: None = None) -> "dict[str, Method]": ...
@overload
def methods(name: str) -> "Method": ...
def methods(name: str | None = None) -> "dict[str, Method] | Method":
    """The methods of the literature by name, or one of them: what it does, and which keys it sets.

    Raises PalateError for an unknown name, with the closest one.
    """
    from palate import presets

    return dict(presets.methods()) if name is None else presets.method(name)


def encode(
    config: "Place | Mapping[str, Any] | TrainConfig | None" = None, *, dry_run: bool = False, **overrides: Any
) -> dict[str, int]:
    """Compute in advance what training needs: latents and embeddings of all pairs and, with `reference_draws`, the
    reference's errors at so many draws of each pair.

    `config` and `overrides` are as in `train`; model, dataset, resolution and precision matter. Returns counts; with
    `dry_run` nothing is computed, and they say what is missing. The same call resumes. Raises PalateError when the
    configuration cannot use errors at the pairs' own draws.
    """
    from palate.training import encode as room

    if config is None or isinstance(config, Mapping):
        overrides = {"output_dir": "runs"} | dict(config or {}) | overrides  # nothing is written there
        config = None
    found = _configuration(config, overrides)
    return room.plan(found) if dry_run else room.encode(found)


def train(
    config: "Place | Mapping[str, Any] | TrainConfig | None" = None, *, dry_run: bool = False, **overrides: Any
) -> "Run":
    """Train, or resume training, with `config`: a YAML file, keys and values, or a `TrainConfig`. Keywords are keys,
    too, and override `config`, which may be absent.

    With `dry_run` everything is checked and counted, but nothing is encoded, trained or written into the run. Returns
    the run. Raises PalateError before any work starts if the configuration cannot work, and when the loss becomes NaN,
    naming the pairs; checkpoints are kept.
    """
    from palate.training.train import train as run_training

    return run_training(_configuration(config, overrides), dry_run=dry_run)


def _configuration(
    config: "Place | Mapping[str, Any] | TrainConfig | None", overrides: dict[str, Any]
) -> "TrainConfig":
    from palate.run.load import load_config

    if config is None or isinstance(config, Mapping):
        return load_config(plain_keys({**(config or {}), **overrides}))
    source = fspath(config) if isinstance(config, str | PathLike) else config
    return load_config(source, **plain_keys(overrides))


def sample(
    model: Place,
    prompts: Prompts,
    to: Place | None = None,
    sampling: "Sampling | None" = None,
    *,
    part: str | None = None,
    limit: int | None = None,
    column: str | None = None,
    base: bool = False,
    batch_size: int | None = None,
    device: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    vae: Place | None = None,
) -> "Samples":
    """Make pictures from prompts with a run, a diffusers pipeline folder, or "world"; existing pictures are kept.

    `prompts` is one prompt, several, or a file of prompts, from which `part`, `limit` and `column` choose. The pictures
    go into the folder `to`; for a run into RUN/samples when absent. `base` also samples the model that the run started
    from, into RUN/base-samples. `revision`, `variant` and `vae` choose a pipeline's files, like the configuration keys
    of these names. Returns the samples of the model. Raises PalateError when the folder has samples of other prompts,
    settings or weights, and when the model cannot be used.
    """
    from palate.data.samples import Sampling
    from palate.sampling.prompts import as_suite
    from palate.sampling.samples import sample_verb

    suite = as_suite(prompts, part, limit, column)
    print(suite.line())
    how, folder = sampling or Sampling(), None if to is None else Path(to)
    parts = {"revision": revision, "variant": variant, "vae": None if vae is None else fspath(vae)}
    return sample_verb(fspath(model), suite, how, folder, base, batch_size, device, parts)[0]


def score(
    models: Places,
    scorer: str | Sequence[str],
    *,
    model: Place | None = None,
    device: str | None = None,
    dtype: Literal["fp32", "fp16", "bf16"] | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> "list[Scored]":
    """Score every picture of runs (and of their base-samples) or of folders of samples; scores are stored beside them.

    `scorer` is one name or several. `model` is the weights of the only reward model among them; `device` and `dtype`
    are for reward models; `settings` are by key, or by "NAME.key" for the scorer NAME. Returns the means of each
    folder. A second call costs nothing. A folder or scorer that fails is reported to `tell` as a line (printed to
    stderr when absent), and the rest is scored. Raises PalateError if nothing could be scored, and for one `model` with
    several reward models.
    """
    from palate.evaluation.score import score as score_folders

    common = without_none(model=None if model is None else fspath(model), device=device, dtype=dtype)
    told = {} if tell is None else {"tell": tell}
    return score_folders(places(models), list(names(scorer)), common, dict(settings or {}), batch_size, **told)


@overload
def compare(
    models: Places, against: Place = "base", *, prompts: Prompts | None = None, part: str | None = None,
    limit: int | None = None, column: str | None = None, scorer: str | Sequence[str] = (), votes: None = None,
    judge: str | None = None, propensity: Literal["given", "estimated"] = "given", sampling: "Sampling | None" = None,
    device: str | None = None, group: bool = False, out: Place | None = None,
) -> "Comparison": ...  # fmt: skip
@overload
def compare(
    models: Places, against: Place = "base", *, prompts: Prompts | None = None, part: str | None = None,
    limit: int | None = None, column: str | None = None, votes: Place, judge: str | None = None,
    propensity: Literal["given", "estimated"] = "given", sampling: "Sampling | None" = None, device: str | None = None,
    out: Place | None = None,
) -> "Contest": ...  # fmt: skip
def compare(
    models: Places,
    against: Place = "base",
    *,
    prompts: Prompts | None = None,
    part: str | None = None,
    limit: int | None = None,
    column: str | None = None,
    scorer: str | Sequence[str] = (),
    votes: Place | None = None,
    judge: str | None = None,
    propensity: Literal["given", "estimated"] = "given",
    sampling: "Sampling | None" = None,
    device: str | None = None,
    group: bool = False,
    out: Place | None = None,
) -> "Comparison | Contest":
    """Compare runs with their base model, another run, or a folder of samples: paired win rates with 95 % intervals.

    Missing samples are made first from `prompts` (as in `sample`) with `sampling`. `scorer` is one name or several;
    when absent, those that scored the first model's samples, else the world's truth for its prompts. Or `votes` decide:
    a dataset of pairs of these two models' pictures, supported by its `judge`, and weighted by an estimated
    `propensity` where people picked the pairs. With `group` all models are training seeds of one method. The result is
    also written to `out`; when absent, to compare.json in the first model's folder (compare-votes.json with `votes`),
    where `report` finds it. Where neither model is a folder, both are names of generators in the pairs of `votes`, and
    the result is written to `out` alone.

    Raises PalateError for samples that cannot be paired, runs that started from different base models, and a reward
    model that has not scored all samples yet.
    """
    from palate.data.samples import Sampling
    from palate.evaluation.compare import compare as compare_models
    from palate.evaluation.compare import two_models
    from palate.evaluation.contest import contest, contest_of_generators
    from palate.evaluation.results import save
    from palate.sampling.prompts import as_suite

    if prompts is None and (part or limit or column):
        raise PalateError("--part, --limit and --column are about --prompts; give those, or leave the three out.")
    if propensity != "given" and votes is None:
        raise PalateError("--propensity is that of people's pairs in --votes; give that dataset, or leave it out.")
    if judge and votes is None:
        raise PalateError("--judge names a judge of --votes; give that dataset, or use --scorer.")
    suite = None if prompts is None else as_suite(prompts, part, limit, column)
    how, rivals = sampling or Sampling(), places(models)
    if votes is None:
        found = compare_models(
            rivals, fspath(against), prompts=suite, scorer=list(names(scorer)) or None, sampling=how, device=device,
            group=group,
        )  # fmt: skip
        save(found, Path(out or f"{rivals[0]}/compare.json"))
        return found
    if scorer:
        raise PalateError("compare: votes and scorers are two comparisons. Call it once with each.")
    if len(rivals) != 1:
        raise PalateError(f"--votes compares one model with --against, and {len(rivals)} are named.")
    if against != "base" and not any(Path(one).exists() for one in (rivals[0], fspath(against))):
        by_name = contest_of_generators(rivals[0], fspath(against), opened(votes), judge, propensity)
        if out is not None:
            save(by_name, Path(out))
        return by_name
    titles, samples = two_models(rivals[0], fspath(against), suite, how, device)
    decided = contest(*samples, opened(votes), judge, titles, propensity)
    save(decided, Path(out or f"{rivals[0]}/compare-votes.json"))
    return decided


def report(
    runs: Places,
    out: Place | None = None,
    *,
    scorer: str | Sequence[str] = (),
    votes: Place | None = None,
    judge: str | None = None,
    group: bool = False,
    card: bool = False,
    pictures: int = 24,
) -> Path:
    """Write one html page of runs that have samples: pictures, win rates, votes, curves; returns its path.

    It goes to `out`, RUN/report.html when absent. `scorer` and `group` are as in `compare`. `votes` is a dataset of
    votes on these pictures and `judge` the judge in it to use; when absent, those that `compare` used last. `card` also
    writes each run's model card. Raises PalateError for a folder that is not a run, runs without samples or with
    different sampling, and a card for a run without a model, or one that was edited.
    """
    from palate.reports.runs import report as write_page

    page, contest = (None if one is None else Path(one) for one in (out, votes))
    scorers = list(names(scorer)) or None
    return write_page(
        [Path(run) for run in places(runs)], page, scorers, pictures, votes=contest, judge=judge,
        group=group, card=card,
    )  # fmt: skip


def export(
    run: Place,
    format: "Format" = "diffusers",
    to: Place | None = None,
    *,
    dtype: Literal["fp16", "bf16", "fp32"] | None = None,
    whole_pipeline: bool = False,
) -> Path:
    """Write a run's model in another tool's format; returns the file or folder, RUN/exports/FORMAT when `to` is absent.

    diffusers: the adapters or the denoiser, with a model card. kohya, comfyui: one file of adapters. fused: the
    denoiser with the adapters merged; with `whole_pipeline` in a copy of the base model's folder. single-file: the
    whole model under Stable Diffusion's original names. Raises PalateError, before anything is written, for a folder
    that is not a finished run, a model that the format cannot hold, and if something exists at the destination.
    """
    from palate.sharing.export import export as write

    return write(fspath(run), format, None if to is None else Path(to).expanduser(), dtype, whole_pipeline)


@overload
def push(run: Place, repository: str, *, private: bool = True, dry_run: Literal[False] = False) -> str: ...
@overload
def push(run: Place, repository: str, *, private: bool = True, dry_run: Literal[True]) -> "Sending": ...
def push(run: Place, repository: str, *, private: bool = True, dry_run: bool = False) -> "str | Sending":
    """Send a finished run's model and card to `repository` (owner/name) on the hub; returns the address of the commit.

    With `dry_run` nothing is sent; returns what would be. The login is the hub's own. Raises PalateError
    without a login, when the hub refuses or cannot be reached, and when the repository is public and `private` was
    asked for.
    """
    from palate.sharing.push import plan
    from palate.sharing.push import push as send

    planned = plan(fspath(run), repository)
    return planned if dry_run else send(fspath(run), repository, private, planned)


@overload
def demo(out: Place | None = None, *, quick: bool = False, seed: int = 0, mine: Literal[False] = False) -> "Page": ...
@overload
def demo(
    out: Place | None = None, *, seed: int = 0, mine: Literal[True], taste: str = "", browser: bool = True
) -> "Mine": ...
def demo(
    out: Place | None = None,
    *,
    quick: bool = False,
    seed: int = 0,
    mine: bool = False,
    taste: str = "",
    browser: bool = True,
) -> "Page | Mine":
    """From imperfect votes to a better model in the emoji world, into the folder `out` (demo-run, or demo-mine). The
    same call resumes.

    Trains five models (`quick`: two), prints a table, writes wall.png and report.html, and returns the page's content.
    With `mine` it asks for forty votes of yours on a page (opened in the `browser`), or takes those of the simulated
    person `taste`, and trains on them. Raises PalateError for a `taste` without `mine`, or one that nobody has.
    """
    if taste and not mine:
        raise PalateError("taste is whose votes `mine` takes: give both, as in --mine --taste glossy-food.")
    if mine and quick:
        raise PalateError("quick is a smaller table, and mine makes none: give one of them.")
    if mine:
        from palate.demos.mine import mine as own_taste

        return own_taste(Path(out or "demo-mine"), taste, seed, browse=browser)
    from palate.demos.demo import demo as whole_way

    return whole_way(Path(out or "demo-run"), quick, seed)
