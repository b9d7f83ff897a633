"""Every case that was computed from a published implementation is asked for by some test."""

import importlib
from pathlib import Path

from parity import cases


def test_every_case_is_tested():
    for module in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"parity.{module.stem}")
    everything = {case["id"] for case in cases.index()["cases"]}
    assert everything - cases.ASKED == set()
