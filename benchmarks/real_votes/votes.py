"""TIFA160: real votes of five people and eleven judges on 1,600 pairs of text-to-image pictures, without the pictures.

160 prompts, five models, all pairs of one prompt; the same five people rated every picture for its consistency with the
prompt (1 to 5), and a vote is the sign of the difference, 44 % of them ties. A judge's probability is sigmoid(difference
of its scores / root mean square of these differences). `panel`: TIFA's own raters, two of many a picture, sums compared.

Source of the facts in tifa160.parquet: github.com/j-min/DSG at 7330119 (dsg/data/tifa160-likert-anns.csv,
vqa_answers_release) and github.com/Yushi-Hu/tifa at 8e37050 (human_annotations), both under the Apache License 2.0.
Prompts are given by their ids alone.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from palate.audits.evidence import Evidence, Votes
from palate.data.labels import Labels

FILE = Path(__file__).parent / "tifa160.parquet"
VALUE = {"0": 1.0, "1": 0.0, "tie": 0.5, None: np.nan}


@dataclass(frozen=True)
class RealVotes:
    """Votes on N pairs as arrays: 1 for image 0, 0 for image 1, 1/2 for a tie, NaN where there is none."""

    prompt: np.ndarray  # [N] number of the prompt
    human: np.ndarray  # [N, P]
    people: tuple[str, ...]
    judge: np.ndarray  # [N, J] probabilities
    judges: tuple[str, ...]
    panel: np.ndarray  # [N] an independent panel
    generators: tuple[np.ndarray, np.ndarray]  # [N] names of the models of image 0 and of image 1

    def take(self, rows: np.ndarray) -> "RealVotes":
        """These pairs, any of them several times."""
        first, second = self.generators
        return RealVotes(
            self.prompt[rows], self.human[rows], self.people, self.judge[rows], self.judges, self.panel[rows],
            (first[rows], second[rows]),
        )  # fmt: skip

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean human vote [N]."""
        return np.nanmean(self.human, axis=1)

    def labels(self, judge: np.ndarray, labelled: np.ndarray) -> Labels:
        """What palate sees where only the `labelled` pairs [N] have human votes, drawn at random."""
        share = np.full(len(labelled), labelled.mean())
        return Labels(np.where(labelled, self.mean, np.nan), judge, share)

    def votes(self) -> Votes:
        """The human votes as the audit has them."""
        pair, person = np.nonzero(~np.isnan(self.human))
        return Votes(pair, person, self.human[pair, person], np.zeros(len(pair)), self.people)

    def evidence(self, labelled: np.ndarray) -> Evidence:
        """The same as `palate audit` reads it from a dataset: no pictures, so no statistics."""
        kept = self.human * np.where(labelled, 1.0, np.nan)[:, None]
        ids = [f"p{i}" for i in range(len(self.prompt))]
        tables = [_table(kept, self.people, "human"), _table(self.judge, self.judges, "judge")]
        none = np.zeros((len(ids), 0))
        pair, judge = np.nonzero(~np.isnan(self.judge))
        choice = 0.5 + np.sign(self.judge[pair, judge] - 0.5) / 2
        return Evidence(
            ids=ids, prompts=[str(p) for p in self.prompt], group=self.prompt,
            human=RealVotes.votes(_with(self, kept)), judges=Votes(pair, judge, choice, np.zeros(len(pair)), self.judges),
            table=pa.concat_tables(tables), propensity=np.full(len(ids), labelled.mean()), differences=none,
            statistics=(), directions=none, fitted=self.judge,
        )  # fmt: skip


def _with(votes: RealVotes, human: np.ndarray) -> RealVotes:
    return RealVotes(votes.prompt, human, votes.people, votes.judge, votes.judges, votes.panel, votes.generators)


def _table(values: np.ndarray, names: tuple[str, ...], source: str) -> pa.Table:
    pair, who = np.nonzero(~np.isnan(values))
    value = values[pair, who]
    return pa.table(
        {
            "pair_id": pa.array([f"p{i}" for i in pair]),
            "annotator_id": pa.array([names[k] for k in who]),
            "source": pa.array([source] * len(pair)),
            "choice": pa.array(["0" if v > 0.5 else "1" if v < 0.5 else "tie" for v in value]),
            "probability": pa.array(value if source == "judge" else [None] * len(pair), pa.float64()),
        }
    )


def read_votes(file: Path = FILE) -> RealVotes:
    """The votes on all 1,600 pairs."""
    table = pq.read_table(file)
    people = tuple(name.removeprefix("human ") for name in table.column_names if name.startswith("human "))
    judges = tuple(
        n.removeprefix("judge ").removesuffix(" score_0") for n in table.column_names if n.endswith("score_0")
    )
    prompt = np.unique(table["prompt_id"].to_pylist(), return_inverse=True)[1]
    human = np.column_stack([[VALUE[v] for v in table[f"human {name}"].to_pylist()] for name in people])
    columns = []
    for name in judges:
        scores = (table[f"judge {name} score_{k}"].to_numpy().astype(float) for k in (0, 1))
        difference = np.subtract(*scores)
        columns.append(expit(difference / np.sqrt(np.nanmean(difference**2))))
    panel = np.array([VALUE[v] for v in table["panel"].to_pylist()])
    generators = (np.array(table[f"generator_{k}"].to_pylist()) for k in (0, 1))
    first, second = generators
    return RealVotes(prompt, human, people, np.column_stack(columns), judges, panel, (first, second))
