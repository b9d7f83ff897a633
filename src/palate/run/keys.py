"""How a key of a configuration is declared: everything about it stands where the key stands, in the field's metadata.

Whatever needs to know something of all keys (which may change on resume, what the folds of a cross-fitted model reset,
what a stored error of the reference depends on, which values need less memory, what a report tells) asks here.
"""

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

REQUIRED = MISSING  # the default of a key that has none
NOTHING: Mapping[str, Any] = {}
UNSAID: Any = object()
SEEDS = 2**63 - 1  # the largest seed that every generator of random numbers takes

# Headings of `palate train --help`, one for each group of keys
RUN = "Model, data and run"
METHOD = "The method: a preset for everything below that the file does not say itself"
VOTES = "Which votes, and what they are worth"
LOSS = "The objective"
SAMPLED = "What the model samples itself (source: steps and samples)"
TIMESTEPS = "The timesteps of flow matching (Stable Diffusion 3, FLUX, Sana)"
MODEL = "The model"
ADAPTERS = "Adapters (any of these options, or `lora` in the file, trains adapters)"
REFERENCE = "The reference"
STEPS = "Optimisation"
SPIKES = "When training breaks"
PROCESSES = "Several processes"
GUARD = "Over-fitting to few votes"
BOOKS = "Book-keeping"

Error = Literal["no", "value", "model", "timesteps", "draws", "pairs", "rounding", "refused"]


@dataclass(frozen=True)
class Key:
    """What is known of one key beside its type, its default and the sentence below it."""

    group: str
    """The heading that it stands under in `--help`."""
    resume: Literal["fixed", "free"]
    """free: it may be another one when a run resumes, because it changes where or how long a run computes, not what."""
    folds: Literal["same", "reset", "own"]
    """What the runs of a cross-fitted model's folds take: the same value, `reset_to`, or each fold one of its own."""
    error: Error
    """How a stored error of the reference depends on it. no: not at all. value: on its value. model, timesteps, draws,
    pairs: through what is described as such. rounding: in the last bits, which a run says. refused: errors are stored
    for its default alone."""
    low: float | None
    high: float | None
    has_bounds: bool  # they were given, be it as None for no bound
    unit: str
    told: str | None
    """The row of a report that tells it. "nowhere": no report does. None: among other keys, where it was changed."""
    reset_to: Any
    remedies: tuple[Any, ...]
    """Values that reduce the memory of a training."""
    remedy_sets: Mapping[str, Any]
    """Keys that these values need to be set along with them."""
    first: bool
    """It is one of those that people change first."""


def key(
    default: Any,
    group: str,
    *,
    resume: Literal["fixed", "free"],
    folds: Literal["same", "reset", "own"],
    error: Error,
    low: float | None = UNSAID,
    high: float | None = None,
    unit: str = "",
    told: str | None = None,
    reset_to: Any = MISSING,
    remedies: tuple[Any, ...] = (),
    remedy_sets: Mapping[str, Any] = NOTHING,
    first: bool = False,
) -> Any:
    """A field of a configuration with its Key; `default` is a value, REQUIRED, or a function that makes one.

    `low` and `high` are the least and the largest number, None for no bound; a number says at least the first. What a
    fold takes of a key that is reset is its default, or `reset_to`.
    """
    made = {"default_factory": default} if callable(default) else {} if default is REQUIRED else {"default": default}
    least = None if low is UNSAID else low
    again = default if reset_to is MISSING else reset_to
    declared = Key(
        group, resume, folds, error, least, high, low is not UNSAID, unit, told, again, remedies, remedy_sets, first
    )
    return field(metadata={"key": declared}, **made)


def keys(kind: type, which: Callable[[Key], bool] = lambda _: True) -> dict[str, Key]:
    """The keys of a configuration by name, in their order; those of which `which` is true."""
    declared = {f.name: key_of(f) for f in fields(kind)}
    return {name: one for name, one in declared.items() if which(one)}


def key_of(field_: Field[Any]) -> Key:
    """What a field declares. Raises TypeError for one that declares nothing."""
    declared = field_.metadata.get("key")
    if not isinstance(declared, Key):
        raise TypeError(f"the key {field_.name!r} says nothing of itself: declare it with palate.run.keys.key")
    return declared


def help_of_keys(kind: type) -> dict[str, str]:
    """The sentence below each key, on one line; empty where there is none."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    name = ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            texts[name] = ""
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts[name] = " ".join(str(node.value.value).split())
    return texts


def default_of(field_: Field[Any]) -> Any:
    """The default of a field; MISSING for a required one."""
    return field_.default_factory() if field_.default_factory is not MISSING else field_.default
