"""Numbers and seeds that are addressed, not consumed: a function of what they belong to, and of nothing else.

So a resumed run equals one that was never stopped, the result does not depend on workers, batch size or the order of
anything, and a plan is made again on any machine. An address is a list of parts that print: ("draw", seed, pair_id).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from palate.arrays import Floats, Hashes, Ints

if TYPE_CHECKING:
    from torch import Tensor

SEPARATOR = "\x1f"  # between two parts: ("a", "bc") is another address than ("ab", "c")


def address(*parts: object) -> int:
    """A 63-bit number: a seed for a generator, or a rank for a random order."""
    return int.from_bytes(_digest(_joined(parts)), "big") >> 1


def number(*parts: object) -> float:
    """A number in [0, 1) with 53 random bits."""
    return (int.from_bytes(_digest(_joined(parts)), "big") >> 11) / 2**53


def numbers(what: str, seed: int, names: Sequence[str]) -> Floats:
    """One number in [0, 1) per name, [N] float64: a function of (what, seed, name), spread evenly and alike on every
    machine."""
    return np.array([number(what, seed, name) for name in names], dtype=np.float64)


def hashes(names: Iterable[str]) -> Hashes:
    """64 bits of each name, [N] uint64: of a million names, two are the same once in thirty million sets."""
    return np.frombuffer(b"".join(map(_digest, names)), np.uint64)


def random_order(names: Iterable[str]) -> Ints:
    """Positions [N] of the names in a random order that depends on each name alone: leaving names out moves no
    other."""
    return np.argsort(np.frombuffer(b"".join(map(_digest, names)), ">u8"), kind="stable")


def normal(shape: tuple[int, ...], *parts: object) -> "Tensor":
    """Standard normal numbers of this shape. Made on the CPU, because generators differ between devices."""
    import torch  # those who only read tables need not wait for it

    return torch.randn(shape, generator=torch.Generator().manual_seed(address(*parts)))


def _joined(parts: tuple[object, ...]) -> str:
    return SEPARATOR.join(map(str, parts))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
