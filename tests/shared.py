"""Where material of others lies that is no part of the project: published files, beside the checkout. Nearly nobody has it."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("PALATE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
