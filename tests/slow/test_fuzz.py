"""The fuzzer of the importers and the picture decoder: 2,000 inputs, none of which ends in a trace."""

import pytest
from fuzz_imports import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_thousand_mutated_inputs_are_imported_or_refused_in_lines(seed):
    found = fuzz(1000, seed)
    assert sum(found.values()) == 1000 and len(found) == 4  # each kind of end was seen
