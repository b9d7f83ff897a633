"""Changes are written with the digits that their interval supports, and what is none is not made to look like one."""

import math

import pytest

from palate.evaluation.digits import change_places, change_text, is_change


@pytest.mark.parametrize(
    ("change", "text", "real"),
    [
        ((0.0312345, 0.0301, 0.0324), "+0.0312 [+0.0301, +0.0324]", True),
        ((0.31, 0.11, 0.52), "+0.31 [+0.11, +0.52]", True),
        ((-12.34, -32.0, -2.5), "-12 [-32, -2]", True),
        ((0.0001234, -0.0011, 0.0013), "0.0001 [-0.0011, +0.0013]".replace("0.0001", "+0.0001"), False),
        ((2e-9, 1e-9, 3e-9), "0.000000 [0.000000, 0.000000]", False),  # the last bits of a sum
        ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]", False),
        ((-0.004, math.nan, math.nan), "0.00", False),  # one prompt only
        ((0.05, 0.004, 0.1), "+0.050 [+0.004, +0.100]", True),
    ],
)
def test_a_change_has_the_digits_of_its_interval(change, text, real):
    places = change_places([change])
    assert change_text(change, places) == text
    assert is_change(change, places) is real


def test_a_column_has_the_digits_of_its_widest_interval():
    assert change_places([(0.1, 0.09, 0.11), (0.1, 0.0, 0.2)]) == 2
    assert not is_change((0.002, 0.001, 0.004), 2)  # it would read +0.00, in bold
