"""The reference's errors at addressed draws, computed once for every run over methods, strengths and seeds.

Beside the encoded pairs lies one folder per reference (model, scheduler, precision, seed of the draws, drop-out). Its
table holds errors [N, K, 2] of N pairs at the draws 0 to K - 1, memory-mapped, and the pairs' addresses in order, 8
bytes each. While it is made, finished parts lie beside it; more pairs and more draws are added later.
"""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from palate.addresses import address
from palate.arrays import Floats, Ints, Objects
from palate.backbones import Backbone
from palate.backbones.folders import fingerprint
from palate.distributed import counts
from palate.encoding.cache import EncodedPairs
from palate.errors import PalateError
from palate.files import atomic_path, write_text
from palate.labels.rows import Rows
from palate.network.model import Policy, on_cpu, starting_network
from palate.network.precision import hold_frozen
from palate.network.timesteps import timestep_settings
from palate.progress import progress_bar
from palate.run.config import TrainConfig
from palate.training.compiled import compile_network
from palate.training.networks import Networks
from palate.training.sources import Setting, rows_problem

PART = 512  # pairs at one draw, written at once
TABLE = "errors.safetensors"
HASHED = ("model", "scheduler")  # settings that nobody can read


class PrecomputedErrors:
    """The table of one folder, opened for reading."""

    def __init__(self, folder: Path):
        with safe_open(folder / TABLE, "pt") as handle:
            self._pair = handle.get_tensor("pair").numpy()  # [N] int64, ascending
            self._errors = handle.get_tensor("errors")  # [N, K, 2], memory-mapped
        self.batch_size = _settings(folder)["batch_size"]  # pairs in each forward pass that computed them

    @property
    def draws(self) -> int:
        """K, the number of draws of each pair."""
        return self._errors.shape[1]

    def missing(self, pair_ids: list[str]) -> list[str]:
        """The pairs that are not in the table."""
        return [pair_id for pair_id, row in zip(pair_ids, self._rows(pair_ids), strict=True) if row < 0]

    def lookup(self, pair_ids: list[str], numbers: list[int]) -> torch.Tensor:
        """Errors [B, 2] of both images of these pairs at these draws."""
        rows = self._rows(pair_ids)
        return self._errors[torch.from_numpy(rows), torch.tensor(numbers)]

    def save(self) -> None:
        """Nothing: a run adds nothing to the table."""

    def _rows(self, pair_ids: list[str]) -> Ints:
        """Rows [B] of the table, -1 where a pair is not in it."""
        wanted = _addresses(pair_ids)
        found = np.searchsorted(self._pair, wanted).clip(max=max(len(self._pair) - 1, 0))
        return np.where(self._pair[found] == wanted, found, -1) if len(self._pair) else np.full(len(wanted), -1)


def open_precomputed(encoded: EncodedPairs, backbone: Backbone, config: TrainConfig, rows: Rows) -> PrecomputedErrors:
    """The errors that a run needs. Raises PalateError when they are missing or are those of something else, saying of
    what."""
    wanted = describe(backbone, config)
    folder = encoded.folder / _name(wanted)
    todo = f"`palate encode CONFIG --reference-draws {config.reference_draws}` computes them."
    if not (folder / TABLE).exists():
        raise PalateError(f"reference: precomputed, but {_nearest(encoded.folder, wanted)}. {todo}")
    errors = PrecomputedErrors(folder)
    if errors.draws < config.reference_draws:
        raise PalateError(
            f"reference_draws: {config.reference_draws}, but the reference's errors were computed at {errors.draws}"
            f" draws of each pair. {todo}"
        )
    missing = errors.missing(rows.id.tolist())
    if missing:
        raise PalateError(
            f"{len(missing)} of {len(rows)} pairs have no precomputed errors of the reference, the first being"
            f" {missing[0]}. {todo}"
        )
    at_once = counts(config.train_batch_size)[0]
    if errors.batch_size != at_once:
        print(
            f"train: the reference's errors were computed {errors.batch_size} pairs at a time, and a step takes"
            f" {at_once}: logits of the first step are 0 up to rounding"
        )
    return errors


def describe(backbone: Backbone, config: TrainConfig) -> dict:
    """Everything that errors at addressed draws depend on, beside the encoded pairs."""
    return {
        "model": fingerprint(backbone.folder, (backbone.denoiser,)),
        "scheduler": fingerprint(backbone.folder, ("scheduler",)),
        "draw_seed": config.draw_seed,
        "prompt_dropout": config.prompt_dropout,
        "mixed_precision": config.mixed_precision,
        "timesteps": list(timestep_settings(backbone)),
        "compile": config.compile,
        "device": torch.device(backbone.device).type,
    }


def precompute(encoded: EncodedPairs, backbone: Backbone, config: TrainConfig, accelerator: Accelerator) -> int:
    """Compute the errors of all pairs at `reference_draws` draws that are not there yet; returns how many were.

    Every forward pass takes `train_batch_size` pairs, as a step does, the last one filled up: so errors equal those of
    a run that computes them itself to the last bit where a kernel treats the rows of a batch alike. Goes on where it
    was interrupted. Raises PalateError when an error is not a number.
    """
    settings = describe(backbone, config)
    folder = encoded.folder / _name(settings)
    if not (folder / "settings.json").exists():
        write_text(folder / "settings.json", json.dumps(settings | {"batch_size": config.train_batch_size}, indent=1))
    size = _settings(folder)["batch_size"]  # one size for the whole table
    pair_ids = sorted(encoded.pairs_of_two())
    known = _known(folder, pair_ids, config.reference_draws)
    missing = int(np.isnan(known[..., 0]).sum())
    if missing:
        setting = _setting(encoded, backbone, config, accelerator, pair_ids)
        with progress_bar("errors of the reference", missing) as advance:
            for start in range(0, len(pair_ids), PART):
                for draw in range(known.shape[1]):
                    place = start + np.flatnonzero(np.isnan(known[start : start + PART, draw, 0]))
                    if len(place):
                        known[place, draw] = _errors(setting, place, draw, size)
                        path = folder / f"part-{draw:05}-{address(pair_ids[place[0]]):016x}.safetensors"
                        _write(path, [pair_ids[i] for i in place], known[place, draw][:, None])
                        advance(len(place))
    if missing or any(folder.glob("part-*")):
        _write(folder / TABLE, pair_ids, known)
        for part in folder.glob("part-*.safetensors"):
            part.unlink()
    return missing


def count_missing(encoded: EncodedPairs, backbone: Backbone, config: TrainConfig) -> int:
    """How many errors of pairs at draws `precompute` would compute."""
    folder = encoded.folder / _name(describe(backbone, config))
    return int(np.isnan(_known(folder, sorted(encoded.pairs_of_two()), config.reference_draws)[..., 0]).sum())


def _setting(
    encoded: EncodedPairs, backbone: Backbone, config: TrainConfig, accelerator: Accelerator, pair_ids: list[str]
) -> Setting:
    """A run's setting without votes: the network that it starts from is the reference itself."""
    with nullcontext() if config.weight_dtype == "fp32" else on_cpu(backbone):
        network = starting_network(backbone, config).train().requires_grad_(False)  # as in a run: there is no drop-out
    hold_frozen(network, config.weight_dtype)
    network.to(backbone.device)
    if config.compile:
        compile_network(network)
    n = len(pair_ids)
    rows = Rows(
        id=np.array(pair_ids, dtype=object), images=[((pair_id, 0), (pair_id, 1)) for pair_id in pair_ids],
        prompt=encoded.prompts_of(pair_ids), target=np.full(n, 0.5), weight=np.ones(n),
        labelled=np.zeros(n, bool), account={},
    )  # fmt: skip
    networks = Networks(backbone, Policy(network, []), lambda: nullcontext(network), config.beta, accelerator)
    return Setting(config, backbone, encoded, rows, None, networks, accelerator.device)


def _errors(setting: Setting, place: Floats, draw: int, size: int) -> Floats:
    """Errors [n, 2] of these rows at one draw, `size` rows at a time."""
    parts = []
    for start in range(0, len(place), size):
        rows = place[start : start + size]
        problem = rows_problem(setting, np.resize(rows, size), [draw] * size, np.ones(size))
        errors, _ = setting.networks.reference_errors(problem)  # [2, B]
        parts.append(errors.T[: len(rows)].cpu().numpy())
    errors = np.concatenate(parts)
    wrong = ~np.isfinite(errors).all(axis=1)
    if wrong.any():
        raise PalateError(
            f"pair {setting.rows.id[place[wrong][0]]}: the reference's error is not a number at draw {draw}. Look at"
            " its images, or use mixed_precision: no."
        )
    return errors


def _known(folder: Path, pair_ids: list[str], draws: int) -> Floats:
    """Errors [N, K, 2] of these pairs that the folder holds, NaN elsewhere; K is `draws`, or more where the table has
    more."""
    table, addresses = folder / TABLE, _addresses(pair_ids)
    order = np.argsort(addresses)
    if table.exists():
        draws = max(draws, PrecomputedErrors(folder).draws)
    known = np.full((len(pair_ids), draws, 2), np.nan, np.float32)
    first = {table: 0} if table.exists() else {}
    first |= {part: int(part.name.split("-")[1]) for part in folder.glob("part-*.safetensors")}
    for path, draw in first.items():
        tensors = load_file(path)
        errors = tensors["errors"].numpy()[:, : draws - draw]
        place = np.searchsorted(addresses[order], tensors["pair"].numpy()).clip(max=len(order) - 1)
        here = addresses[order[place]] == tensors["pair"].numpy()
        known[order[place[here]], draw : draw + errors.shape[1]] = errors[here]
    return known


def _write(path: Path, pair_ids: list[str], errors: Floats) -> None:
    """Errors [n, k, 2] of these pairs, in the order of their addresses."""
    addresses = _addresses(pair_ids)
    order = np.argsort(addresses)
    tensors = {"pair": torch.from_numpy(addresses[order]), "errors": torch.from_numpy(errors[order])}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def _addresses(pair_ids: list[str]) -> Objects:
    return np.array([address(pair_id) for pair_id in pair_ids], np.int64)


def _name(settings: dict) -> str:
    return f"reference-{address(json.dumps(settings, sort_keys=True)):016x}"


def _settings(folder: Path) -> dict:
    return json.loads((folder / "settings.json").read_text(encoding="utf-8"))


def _nearest(cache: Path, wanted: dict) -> str:
    """Why there are no errors for these settings: how those that are most like them differ."""
    candidates = []
    there = _settings(cache)["resolution"] if (cache / "settings.json").exists() else None  # None: nothing encoded yet
    for folder in (path.parent for path in cache.parent.glob(f"*/reference-*/{TABLE}")):
        here = _settings(folder)
        differing = [key for key in wanted if here.get(key) != wanted[key]]
        told = [
            f"{key}: {here.get(key)!r} there, {wanted[key]!r} here" if key not in HASHED else f"another {key}"
            for key in differing
        ]
        if folder.parent != cache:
            other = _settings(folder.parent)["resolution"]
            if there is None:
                told.append("another resolution, autoencoder or text encoder")
            elif other != there:
                told.append(f"resolution: {other} there, {there} here")
            else:
                told.append("another autoencoder or text encoder")
        candidates.append(told)
    if not candidates:
        return "none have been computed for these pairs"
    return f"those that have been computed are of something else ({', '.join(min(candidates, key=len))})"
