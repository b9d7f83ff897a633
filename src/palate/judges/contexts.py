"""The contexts of a correction: which prompts are alike, so that a judge can be wrong about some of them alone.

They are given (a column with what a prompt is about), or found: clusters of the prompts' words. What a correction makes
of them is in correction.py.
"""

import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2

from palate.arrays import Bools, Floats, Ints
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError
from palate.world.emoji_pictures import GROUP_OF

MOST = 8  # contexts that are looked for
_MOST_GIVEN = 64  # contexts that may be given
_FEWEST_PROMPTS = 4  # different prompts that a context has on the mean
_BINS = 512  # that words are hashed into
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Contexts:
    """The context of each of N pairs."""

    place: Ints  # [N] position in `names`
    names: tuple[str, ...]
    given: bool  # by somebody; else found, and named by the words that tell them from the others

    def indicators(self) -> Floats:
        """[N, C] 1 where a pair is of a context."""
        table: Floats = np.eye(len(self.names))
        return np.asarray(table[self.place])


def one_context(count: int) -> Contexts:
    """The same context for so many pairs."""
    return Contexts(np.zeros(count, dtype=int), ("all prompts",), False)


def kinds_of_prompts(
    dataset: PreferenceDataset,
    pair_ids: Sequence[str],
    prompts: Sequence[str],
    source: str = "words",
    seed: int = 0,
) -> Contexts:
    """The kind of the prompt of each of N pairs: found by its words, or given by the pairs' group_id.

    Raises PalateError for kinds that are given and too many, or all the same.
    """
    if source == "words":
        return find_contexts(prompts, seed)
    rows = dataset.pairs(["pair_id", source])
    kind = dict(zip(rows["pair_id"].to_pylist(), rows[source].to_pylist(), strict=True))
    given = given_contexts([kind[pair_id] for pair_id in pair_ids])
    if not 1 < len(given.names) <= _MOST_GIVEN:
        raise PalateError(
            f"contexts: {source}, but the pairs of {dataset.path} have {len(given.names):,} different ones; kinds of "
            f"prompts are 2 to {_MOST_GIVEN}. Name them there, as food or animals, or set contexts: words."
        )
    return given


def given_contexts(values: Sequence[object]) -> Contexts:
    """Contexts from a column [N] that names them; an absent value is the context "other"."""
    texts = ["other" if value is None or value == "" else str(value) for value in values]
    names, place = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
    return Contexts(place, tuple(names.tolist()), True)


def find_contexts(prompts: Sequence[str], seed: int = 0) -> Contexts:
    """Up to eight clusters of prompts [N] by their words, the same for the same prompts and seed.

    Every prompt is a bag of hashed words, rare words counting more (the logarithm of how rare), of length 1; the
    clusters are those of k-means. No human vote is looked at. One context where the prompts are too few, or all alike.
    The names of the emoji world have no words that say what is alike, so they have their world's groups.
    """
    distinct = sorted(set(prompts))
    if distinct and all(prompt in GROUP_OF for prompt in distinct):
        return given_contexts([GROUP_OF[prompt] for prompt in prompts])
    count = min(MOST, len(distinct) // _FEWEST_PROMPTS)
    if count < 2:
        return one_context(len(prompts))
    words = [sorted(set(_WORD.findall(prompt.lower()))) for prompt in distinct]
    of_word = Counter(word for own in words for word in own)
    bags = np.zeros((len(distinct), _BINS))
    for row, own in enumerate(words):
        for word in own:
            bags[row, zlib.crc32(word.encode()) % _BINS] += np.log(len(distinct) / of_word[word])
    lengths = np.linalg.norm(bags, axis=1, keepdims=True)
    bags = np.divide(bags, lengths, out=bags, where=lengths > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cluster that stays empty: it is left out
        _, label = kmeans2(bags, count, minit="++", iter=30, seed=np.random.default_rng(seed))
    used = np.unique(label)
    names = tuple(_name(label == k, words, of_word) for k in used)
    of_prompt = dict(zip(distinct, np.searchsorted(used, label).tolist(), strict=True))
    return Contexts(np.array([of_prompt[prompt] for prompt in prompts]), names, False)


def _name(here: Bools, words: list[list[str]], of_word: Counter[str]) -> str:
    """The two words that tell a cluster from the other prompts best: often here, seldom elsewhere."""
    inside = Counter(word for row in np.flatnonzero(here) for word in words[row])
    score = {word: n * n / of_word[word] for word, n in inside.items()}
    best = sorted(score, key=lambda word: (-score[word], word))[:2]
    return "/".join(best) or "the other prompts"


def differences_in_words(
    contexts: Contexts,
    judges: Sequence[str],
    covariates: Sequence[str],
    common: int,
    weight: Floats,
    covariance: Floats,
    direction: Callable[[str, float], str],
) -> tuple[str, ...]:
    """Where a correction found a context clearly unlike the rest (two standard errors), the clearest first, at most
    four.

    weight [F] and covariance [F, F]: `common` columns, then for each judge and each covariate one per context.
    direction: what a positive or negative weight of a covariate looks like.
    """
    found: list[tuple[float, str]] = []
    count = len(contexts.names)
    for row, name in enumerate((*judges, *covariates)):
        for k, context in enumerate(contexts.names):
            own = common + row * count + k
            if abs(weight[own]) < 2 * np.sqrt(covariance[own, own]):
                continue
            total = weight[row] + weight[own]
            error = np.sqrt(covariance[row, row] + covariance[own, own] + 2 * covariance[row, own])
            where = f"For {context}" if contexts.given else f"For prompts like {context}"
            who = name.removeprefix("judge ") if len(judges) > 1 else "the judge"
            if row >= len(judges):
                if abs(total) < 2 * error:
                    continue
                who = "the judges do" if len(judges) > 1 else "the judge does"
                told = f"{where} people prefer {direction(name, total)} pictures than {who}."
            elif total < -2 * error:
                told = f"{where} people prefer what {who} does not."
            else:
                told = f"{where} {who} tells {'less' if weight[own] < 0 else 'more'} than elsewhere."
            found.append((float(abs(weight[own]) / np.sqrt(covariance[own, own])), told))
    return tuple(told for _, told in sorted(found, reverse=True)[:4])
