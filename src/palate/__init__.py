"""palate: align text-to-image diffusion models with human taste from labels that nobody fully trusts.

Everything is one import away and loaded when first used: `palate.open_dataset`, `palate.train`, `palate.sample`,
`palate.score`, `palate.compare`, `palate.report`, `palate.export`, `palate.push`.
"""

from importlib import import_module

from palate.version import __version__

_HOMES = {
    "PalateError": "palate.errors",
    "open_dataset": "palate.data.dataset",
    "train": "palate.training.train",
    "load_prompts": "palate.sampling.prompts",
    "Sampling": "palate.data.samples",
    "sample": "palate.sampling.samples",
    "score": "palate.evaluation.score",
    "compare": "palate.evaluation.compare",
    "report": "palate.reports.runs",
    "export": "palate.sharing.export",
    "push": "palate.sharing.push",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'palate' has no attribute {name!r}")
