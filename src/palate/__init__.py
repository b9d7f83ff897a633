"""palate: align text-to-image diffusion models with human taste from labels that nobody fully trusts.

One import has every verb of the command line, what they take and what they return. A name is loaded when it is first
used, so `import palate` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from palate.version import __version__

if TYPE_CHECKING:  # what editors and type checkers see; _HOMES says the same of the running program
    from palate.audits.findings import Findings
    from palate.data.dataset import PreferenceDataset, open_dataset
    from palate.data.importers.common import ImportReport
    from palate.data.samples import Samples, Sampling
    from palate.data.summary import Summary
    from palate.demos.mine import Mine
    from palate.demos.simulate import Simulated
    from palate.errors import PalateError
    from palate.evaluation.contest import Contest
    from palate.evaluation.results import Comparison
    from palate.evaluation.score import Scored
    from palate.presets import Method
    from palate.reports.parts import Page
    from palate.run.config import LoraOptions, TrainConfig
    from palate.sampling.prompts import Suite, load_prompts
    from palate.sharing.push import Sending
    from palate.training.loop import Run
    from palate.verbs.data import Annotated, annotate, audit, import_pairs, info, label, votes
    from palate.verbs.models import (
        compare,
        demo,
        encode,
        export,
        methods,
        push,
        report,
        sample,
        score,
        train,
    )
    from palate.web.export import Exported

_HOMES = {
    # the verbs, in the order of use
    "demo": "palate.verbs.models",
    "import_pairs": "palate.verbs.data",
    "info": "palate.verbs.data",
    "label": "palate.verbs.data",
    "votes": "palate.verbs.data",
    "annotate": "palate.verbs.data",
    "audit": "palate.verbs.data",
    "encode": "palate.verbs.models",
    "train": "palate.verbs.models",
    "methods": "palate.verbs.models",
    "sample": "palate.verbs.models",
    "score": "palate.verbs.models",
    "compare": "palate.verbs.models",
    "report": "palate.verbs.models",
    "export": "palate.verbs.models",
    "push": "palate.verbs.models",
    # what they take
    "LoraOptions": "palate.run.config",
    "PreferenceDataset": "palate.data.dataset",
    "Sampling": "palate.data.samples",
    "Suite": "palate.sampling.prompts",
    "TrainConfig": "palate.run.config",
    "load_prompts": "palate.sampling.prompts",
    "open_dataset": "palate.data.dataset",
    # what they return, and raise
    "Annotated": "palate.verbs.data",
    "Comparison": "palate.evaluation.results",
    "Contest": "palate.evaluation.contest",
    "Exported": "palate.web.export",
    "Findings": "palate.audits.findings",
    "ImportReport": "palate.data.importers.common",
    "Method": "palate.presets",
    "Mine": "palate.demos.mine",
    "Page": "palate.reports.parts",
    "PalateError": "palate.errors",
    "Run": "palate.training.loop",
    "Samples": "palate.data.samples",
    "Scored": "palate.evaluation.score",
    "Sending": "palate.sharing.push",
    "Simulated": "palate.demos.simulate",
    "Summary": "palate.data.summary",
}
__all__ = [
    "Annotated", "Comparison", "Contest", "Exported", "Findings", "ImportReport", "LoraOptions", "Method", "Mine",
    "Page", "PalateError", "PreferenceDataset", "Run", "Samples", "Sampling", "Scored", "Sending", "Simulated", "Suite",
    "Summary",
    "TrainConfig", "__version__", "annotate", "audit", "compare", "demo", "encode", "export", "import_pairs", "info",
    "label", "load_prompts", "methods", "open_dataset", "push", "report", "sample", "score", "train", "votes",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'palate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
