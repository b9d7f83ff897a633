"""Types of NumPy arrays by what they hold. Shapes stand beside each array, in a comment or a docstring."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # fp64, where nothing else is said
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
Objects = NDArray[np.object_]  # of str: ids and prompts, whose lengths differ widely
Texts = NDArray[np.str_]
Pixels = NDArray[np.uint8]  # pictures [..., H, W, 3]
