"""Small arithmetic that several rooms share."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from scipy.special import logit

from palate.arrays import Floats


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Count denormal numbers as zero inside the block, and leave the processor as it was found. They slow the training
    of small networks on a CPU several times."""
    import torch  # those who only need a number do not wait for it

    already = bool(torch.tensor(1e-310, dtype=torch.float64) * 1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


HALF_95 = 1.96  # standard errors on either side of a 95 % interval
SUREST = 0.98  # a judge that says 0 or 1 is taken at 98 % where its logit counts


def bounded_logit(probability: Floats) -> Floats:
    """Logits of probabilities, none of them surer than 98 %; NaN stays NaN."""
    logits: Floats = logit(np.clip(probability, 1 - SUREST, SUREST))
    return logits
