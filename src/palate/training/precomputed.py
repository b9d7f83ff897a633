"""The reference's errors at addressed draws, computed once for every run over methods, strengths and seeds.

Beside the encoded pairs lies one folder per reference (model, scheduler, precision, seed of the draws, drop-out, ...).
`palate encode` fills its table, errors [N, K, 2] of N pairs at the draws 0 to K - 1, memory-mapped, with the pairs'
addresses in order, 8 bytes each. While it is being made, finished parts are kept beside it; more pairs and more draws
can be added later. A run with `share_reference` adds the errors that it had to compute itself, at whatever draws it
visited, to a second table. Every reader of the folder reads both.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from palate.addresses import address
from palate.arrays import Floats, Ints
from palate.backbones import Backbone
from palate.backbones.folders import fingerprint
from palate.distributed import counts, first_alone, first_says
from palate.encoding.cache import EncodedPairs
from palate.errors import PalateError
from palate.files import atomic_path, write_text
from palate.labels.rows import Rows
from palate.network.model import Policy, on_cpu, starting_network
from palate.network.precision import hold_frozen
from palate.network.timesteps import timestep_settings
from palate.progress import progress_bar
from palate.run.config import TrainConfig
from palate.run.keys import default_of, key_of
from palate.training.compiled import compile_network
from palate.training.networks import Networks
from palate.training.sources import Setting, rows_problem, seed_of_draws

PART = 512  # pairs at one draw, written at once
TABLE = "errors.safetensors"
VISITED = "visited.safetensors"  # pair [M] int64, draw [M] int64, errors [M, 2], in the order of pair and draw
Settings = dict[str, Any]  # the settings that errors depend on, as in settings.json
ALWAYS_TOLD = (
    "prompt_dropout",
    "mixed_precision",
    "compile",
)  # a later key is told where set, so older tables are found
HASHED = ("model", "scheduler")  # settings that are hashes


class ReferenceErrors:
    """The errors of one folder: those in its tables, and those that a run adds."""

    def __init__(self, folder: Path, grows: bool = False):
        self.folder, self.grows = folder, grows  # `grows`: a run adds the errors that it computes
        self._pair, self._errors = np.empty(0, np.int64), torch.empty(0, 0, 2)
        if (folder / TABLE).exists():
            with safe_open(folder / TABLE, "pt") as handle:
                self._pair = handle.get_tensor("pair").numpy()  # [N] int64, ascending
                self._errors = handle.get_tensor("errors")  # [N, K, 2], memory-mapped
        self._visited = _read_visited(folder) if grows else {}
        self._saved = len(self._visited)

    @property
    def batch_size(self) -> int:
        """Pairs in each forward pass that computed the errors first kept here."""
        return int(_settings(self.folder)["batch_size"])

    @property
    def draws(self) -> int:
        """K, the number of draws of each pair in the table."""
        return self._errors.shape[1]

    def missing(self, pair_ids: list[str]) -> list[str]:
        """The pairs that are not in the table."""
        return [pair_id for pair_id, row in zip(pair_ids, self._rows(pair_ids), strict=True) if row < 0]

    def lookup(self, pair_ids: list[str], numbers: Sequence[int]) -> torch.Tensor | None:
        """Errors [B, 2] of both images of these pairs at these draws, or None when any is missing.

        All or nothing, because a forward over part of a batch may differ from one over the whole in the last bit, and a
        resumed run must equal an uninterrupted one.
        """
        rows, draws = self._rows(pair_ids), np.array(numbers)
        inside = (rows >= 0) & (draws < self.draws)
        if inside.all():
            found = self._errors[torch.from_numpy(rows), torch.from_numpy(draws)]
            return found if not self.grows or bool(torch.isfinite(found).all()) else None
        if not self.grows:
            return None
        pairs: list[tuple[float, float]] = []
        for address_, row, draw, known in zip(_addresses(pair_ids).tolist(), rows, numbers, inside, strict=True):
            pair = tuple(self._errors[row, draw].tolist()) if known else self._visited.get((address_, draw))
            if pair is None or pair[0] != pair[0]:
                return None
            pairs.append(pair)
        return torch.tensor(pairs, dtype=torch.float32)

    def add(self, pair_ids: list[str], numbers: Sequence[int], errors: torch.Tensor) -> None:
        """Remember errors [B, 2]; those already known stay as they are."""
        if self.grows:
            for place, pair in zip(
                zip(_addresses(pair_ids).tolist(), numbers, strict=True), errors.tolist(), strict=True
            ):
                self._visited.setdefault(place, (pair[0], pair[1]))

    def save(self) -> None:
        """Write the new errors, together with those that another run may have written in the meantime."""
        if len(self._visited) == self._saved:
            return
        self._visited = {**self._visited, **_read_visited(self.folder)}
        self._saved = len(self._visited)
        order = sorted(self._visited)
        places = torch.tensor(order, dtype=torch.int64)  # [M, 2]
        tensors = {
            "pair": places[:, 0].contiguous(),
            "draw": places[:, 1].contiguous(),
            "errors": torch.tensor([self._visited[place] for place in order], dtype=torch.float32),
        }
        with atomic_path(self.folder / VISITED) as temporary:
            save_file(tensors, temporary)

    def _rows(self, pair_ids: list[str]) -> Ints:
        """Rows [B] of the table, -1 where a pair is not in it."""
        wanted = _addresses(pair_ids)
        found = np.searchsorted(self._pair, wanted).clip(max=max(len(self._pair) - 1, 0))
        return np.where(self._pair[found] == wanted, found, -1) if len(self._pair) else np.full(len(wanted), -1)


def known_errors(encoded: EncodedPairs, backbone: Backbone, config: TrainConfig, rows: Rows) -> ReferenceErrors | None:
    """The reference's stored errors, where the configuration uses them: all that a run needs (reference: precomputed),
    or a table that grows (share_reference)."""
    if config.reference == "precomputed":
        return open_precomputed(encoded, backbone, config, rows)
    if not config.share_reference:
        return None
    settings = describe(backbone, config)
    folder = encoded.folder / _name(settings)
    if first_says(not (folder / "settings.json").exists()):
        first_alone(lambda: _write_settings(folder, settings, counts(config.train_batch_size)[0]))
    errors = ReferenceErrors(folder, grows=True)
    _tell_rounding(errors, config)
    return errors


def open_precomputed(encoded: EncodedPairs, backbone: Backbone, config: TrainConfig, rows: Rows) -> ReferenceErrors:
    """The errors that a run needs. Raises PalateError when they are missing or were computed with other settings, and
    names those."""
    wanted = describe(backbone, config)
    folder = encoded.folder / _name(wanted)
    todo = f"`palate encode CONFIG --reference-draws {config.reference_draws}` computes them."
    if not (folder / TABLE).exists():
        raise PalateError(f"reference: precomputed, but {_nearest(encoded.folder, wanted)}. {todo}")
    errors = ReferenceErrors(folder)
    if errors.draws < _draws_of(config):
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
    _tell_rounding(errors, config)
    return errors


def _tell_rounding(errors: ReferenceErrors, config: TrainConfig) -> None:
    at_once = counts(config.train_batch_size)[0]
    if errors.batch_size != at_once:
        print(
            f"train: the reference's errors were computed {errors.batch_size} pairs at a time, and a step takes"
            f" {at_once}: logits of the first step are 0 up to rounding"
        )


def describe(backbone: Backbone, config: TrainConfig) -> Settings:
    """All settings that errors at addressed draws depend on, beside the encoded pairs."""
    on_value = {
        f.name: (getattr(config, f.name), default_of(f)) for f in fields(TrainConfig) if key_of(f).error == "value"
    }
    depends = {name: value for name, (value, usual) in on_value.items() if name in ALWAYS_TOLD or value != usual}
    return {
        "model": fingerprint(backbone.folder, (backbone.denoiser,)),
        "scheduler": fingerprint(backbone.folder, ("scheduler",)),
        "draw_seed": seed_of_draws(config),
        "timesteps": list(timestep_settings(backbone)),
        "device": torch.device(backbone.device).type,
        **depends,
    }


def _draws_of(config: TrainConfig) -> int:
    """K, which the checked configuration always has here."""
    assert config.reference_draws is not None
    return config.reference_draws


def precompute(encoded: EncodedPairs, backbone: Backbone, config: TrainConfig, accelerator: Accelerator) -> int:
    """Compute the missing errors of all pairs at `reference_draws` draws; returns how many there were.

    Every forward pass takes `train_batch_size` pairs, as a step does, the last one filled up: so errors equal those of
    a run that computes them itself to the last bit where a kernel treats the rows of a batch alike. Resumes where it
    was interrupted. Raises PalateError when an error is NaN or infinite.
    """
    settings = describe(backbone, config)
    folder = encoded.folder / _name(settings)
    if not (folder / "settings.json").exists():
        _write_settings(folder, settings, config.train_batch_size)
    size = _settings(folder)["batch_size"]  # one size for the whole table
    pair_ids = sorted(encoded.pairs_of_two())
    known = _known(folder, pair_ids, _draws_of(config))
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
    return int(np.isnan(_known(folder, sorted(encoded.pairs_of_two()), _draws_of(config))[..., 0]).sum())


def _setting(
    encoded: EncodedPairs, backbone: Backbone, config: TrainConfig, accelerator: Accelerator, pair_ids: list[str]
) -> Setting:
    """A run's setting without votes: its starting network is the reference."""
    with nullcontext() if config.weight_dtype == "fp32" else on_cpu(backbone):
        network = starting_network(backbone, config).train().requires_grad_(False)  # as in a run; no drop-out
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


def _errors(setting: Setting, place: Ints, draw: int, size: int) -> Floats:
    """Errors [n, 2] of these rows at one draw, `size` rows at a time."""
    parts = []
    for start in range(0, len(place), size):
        rows = place[start : start + size]
        problem = rows_problem(setting, np.resize(rows, size), [draw] * size, np.ones(size))
        computed, _ = setting.networks.reference_errors(problem)  # [2, B]
        parts.append(computed.T[: len(rows)].cpu().numpy())
    errors: Floats = np.concatenate(parts)
    wrong = ~np.isfinite(errors).all(axis=1)
    if wrong.any():
        raise PalateError(
            f"pair {setting.rows.id[place[wrong][0]]}: the reference's error is NaN or infinite at draw {draw}. Look at"
            " its images, or use mixed_precision: no."
        )
    return errors


def _known(folder: Path, pair_ids: list[str], draws: int) -> Floats:
    """Errors [N, K, 2] of these pairs that the folder holds, NaN elsewhere; K is `draws`, or more where the table has
    more."""
    table, addresses = folder / TABLE, _addresses(pair_ids)
    order = np.argsort(addresses)
    if table.exists():
        draws = max(draws, ReferenceErrors(folder).draws)
    known = np.full((len(pair_ids), draws, 2), np.nan, np.float32)
    first = {table: 0} if table.exists() else {}
    first |= {part: int(part.name.split("-")[1]) for part in folder.glob("part-*.safetensors")}
    for path, draw in first.items():
        tensors = load_file(path)
        errors = tensors["errors"].numpy()[:, : draws - draw]
        place = np.searchsorted(addresses[order], tensors["pair"].numpy()).clip(max=len(order) - 1)
        here = addresses[order[place]] == tensors["pair"].numpy()
        known[order[place[here]], draw : draw + errors.shape[1]] = errors[here]
    row_of = {address_: row for row, address_ in enumerate(addresses.tolist())}
    for (address_, draw), pair in _read_visited(folder).items():
        if (row := row_of.get(address_)) is not None and draw < known.shape[1] and np.isnan(known[row, draw, 0]):
            known[row, draw] = pair
    return known


def _read_visited(folder: Path) -> dict[tuple[int, int], tuple[float, float]]:
    """(pair's address, draw) -> errors of both images, for everything that runs have added."""
    if not (folder / VISITED).exists():
        return {}
    tensors = load_file(folder / VISITED)
    places = zip(tensors["pair"].tolist(), tensors["draw"].tolist(), strict=True)
    return {place: (pair[0], pair[1]) for place, pair in zip(places, tensors["errors"].tolist(), strict=True)}


def _write_settings(folder: Path, settings: Settings, batch_size: int) -> None:
    write_text(folder / "settings.json", json.dumps(settings | {"batch_size": batch_size}, indent=1))


def _write(path: Path, pair_ids: list[str], errors: Floats) -> None:
    """Errors [n, k, 2] of these pairs, in the order of their addresses."""
    addresses = _addresses(pair_ids)
    order = np.argsort(addresses)
    tensors = {"pair": torch.from_numpy(addresses[order]), "errors": torch.from_numpy(errors[order])}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def _addresses(pair_ids: list[str]) -> Ints:
    return np.array([address(pair_id) for pair_id in pair_ids], np.int64)


def _name(settings: Settings) -> str:
    return f"reference-{address(json.dumps(settings, sort_keys=True)):016x}"


def _settings(folder: Path) -> Settings:
    settings: Settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    return settings


def _nearest(cache: Path, wanted: Settings) -> str:
    """Why there are no errors for these settings: how the most similar stored ones differ."""
    candidates: list[list[str]] = []
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
    nearest = min(candidates, key=lambda differing: len(differing))
    return f"the stored ones were computed with other settings ({', '.join(nearest)})"
