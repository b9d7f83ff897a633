"""Small arithmetic that several rooms share."""

from collections.abc import Iterator
from contextlib import contextmanager


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
