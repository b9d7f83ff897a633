"""Draws that are addressed, not consumed: a function of (seed, pair, draw number) and of nothing else.

So a resumed run equals one that was never stopped, the result does not depend on workers, batch size or the order of
anything, and the reference's errors at a draw can be shared by every run that visits it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from palate.addresses import address

Number = int | str  # of a draw; a text where the loss never takes it


@dataclass(frozen=True)
class Draws:
    """One draw per pair; both images of a pair share it."""

    timestep: torch.Tensor  # [B] int64
    noise: torch.Tensor  # [B, C, h, w] fp32
    uniform: torch.Tensor  # [B] in [0, 1): below the drop-out share, the prompt is left out


def draws(
    seed: int, pair_ids: list[str], numbers: Sequence[Number], shape: tuple[int, ...], num_timesteps: int
) -> Draws:
    """The draws with these numbers of these pairs. `shape` is that of one image's latents, [C, h, w].

    Made on the CPU whatever the device, because generators differ between devices.
    """
    generator = torch.Generator()
    timestep, noise, uniform = [], [], []
    for pair_id, number in zip(pair_ids, numbers, strict=True):
        generator.manual_seed(address(seed, pair_id, number))
        timestep.append(torch.randint(num_timesteps, (), generator=generator))
        uniform.append(torch.rand((), generator=generator))
        noise.append(torch.randn(shape, generator=generator))
    return Draws(torch.stack(timestep), torch.stack(noise), torch.stack(uniform))
