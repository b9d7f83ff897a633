"""What votes answer: the question of a vote, and which votes count where one question is asked about.

Votes on different questions are never averaged. A judge may have votes on one question alone; where another question is
asked, its overall votes may still tell something of people's answers, and stand in for the ones that it lacks.
"""

import re
from os import PathLike
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from palate.data.dataset import PreferenceDataset
from palate.data.schema import LONGEST_QUESTION, OVERALL
from palate.errors import PalateError, did_you_mean
from palate.reading import read_text

RUBRIC = "rubric/"  # begins the names of a judge's questions that only its correction uses
MOST_CRITERIA = 200
WORDINGS = {
    OVERALL: "Which picture do you prefer for this prompt?",
    "alignment": "Which picture shows better what the prompt asks for?",
    "aesthetics": "Which picture looks better, whatever the prompt says?",
    "fidelity": "Which picture has fewer mistakes and looks more real?",
    "coherence": "Which picture has fewer things in it that cannot be?",
}
_NAME = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*")


def wording_of(question: str) -> str:
    """The sentence in which a question is asked, where nobody gave another one."""
    return WORDINGS.get(question, f"Which picture is better in {question}?")


def named_wording(given: str) -> tuple[str, str]:
    """A question as people give it, and its wording: a name (alignment), a name and its wording (humour: Which is
    funnier?), or the wording of the overall one alone. Raises PalateError for an empty one."""
    name, colon, wording = (part.strip() for part in given.partition(":"))
    if not given.strip() or (colon and _NAME.fullmatch(name) and not wording):
        raise PalateError(f"question {given!r} is empty. Give a name, a name and its wording (name: wording), or both.")
    if _NAME.fullmatch(name) and (colon or _NAME.fullmatch(given.strip())):
        return name, wording or wording_of(name)
    return OVERALL, given


def read_rubric(path: str | PathLike[str]) -> dict[str, str]:
    """The questions of a rubric, a YAML file of names and sentences. Raises PalateError for anything else."""
    try:
        told = yaml.safe_load(read_text(Path(path)))
    except (yaml.YAMLError, RecursionError) as error:
        raise PalateError(
            f"{path}: not YAML. Write one line per question, as in hands: Which hands are right?"
        ) from error
    if not isinstance(told, dict) or not told or len(told) > MOST_CRITERIA:
        raise PalateError(f"{path}: not a rubric: give 1 to {MOST_CRITERIA} lines of a name and its question.")
    for name, sentence in told.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(RUBRIC + name) > LONGEST_QUESTION:
            raise PalateError(f"{path}: {name!r} is no name of a question. Use letters, digits, - and _.")
        if not isinstance(sentence, str) or not sentence.strip():
            raise PalateError(f"{path}: {name} has no question. Write a sentence after it.")
    return {name: " ".join(sentence.split()) for name, sentence in told.items()}


def questions_of(dataset: PreferenceDataset, source: str | None = None) -> dict[str, int]:
    """The number of votes on each question, overall first, then the busiest; without those of rubrics.

    source: human or judge, to count only their votes.
    """
    votes = dataset.votes(["source", "question"], question=None)
    if source is not None:
        votes = votes.filter(pc.equal(votes["source"], source))
    counts = pc.value_counts(pc.fill_null(votes["question"], OVERALL)).to_pylist()
    found = {row["values"]: row["counts"] for row in counts if not row["values"].startswith(RUBRIC)}
    return dict(sorted(found.items(), key=lambda one: (one[0] != OVERALL, -one[1], one[0])))


def require_question(dataset: PreferenceDataset, question: str) -> None:
    """Raises PalateError for a question that no vote of the dataset answers; the overall one may lack votes."""
    known = questions_of(dataset)
    if question != OVERALL and question not in known:
        told = ", ".join(known) or "none, because there are no votes"
        raise PalateError(
            f"question: no vote of {dataset.path} answers {question!r}; there are {told}{did_you_mean(question, known)}"
        )


def votes_on(
    dataset: PreferenceDataset, question: str, columns: list[str], stand_ins: bool = True
) -> tuple[pa.Table, tuple[str, ...]]:
    """The votes on a question, and the judges whose overall votes are among them because they have none on it.

    columns: of the votes, source and annotator_id among them. People's votes on another question are never among them.
    """
    votes = dataset.votes(columns, question=question)
    if question == OVERALL or not stand_ins:
        return votes, ()
    overall = dataset.votes(columns, question=OVERALL)
    own = pc.unique(votes["annotator_id"].filter(pc.equal(votes["source"], "judge")))
    chosen = pc.and_(pc.equal(overall["source"], "judge"), pc.invert(pc.is_in(overall["annotator_id"], own)))
    others = overall.filter(chosen)
    names = tuple(sorted(pc.unique(others["annotator_id"]).to_pylist()))
    return (pa.concat_tables([votes, others]) if names else votes), names
