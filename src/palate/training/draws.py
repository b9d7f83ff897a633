"""Draws that are addressed, not consumed: a function of (seed, pair, draw number) alone.

So a resumed run equals one that was never stopped, the result does not depend on workers, batch size or any order, and
the reference's errors at a draw can be shared by every run that visits it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from palate.addresses import address

Number = int | str  # of a draw; text for draws that the loss never uses


@dataclass(frozen=True)
class Draws:
    """One draw per pair; both images of a pair share it."""

    timestep: torch.Tensor  # [B] int64
    noise: torch.Tensor  # [B, C, h, w] fp32
    uniform: torch.Tensor  # [B] in [0, 1): the prompt is left out where this is below prompt_dropout
    added: torch.Tensor  # [B, C, h, w] fp32: what the network's input has beside the noise


def draws(
    seed: int,
    pair_ids: list[str],
    numbers: Sequence[Number],
    shape: tuple[int, ...],
    num_timesteps: int,
    noise_offset: float = 0.0,
    input_perturbation: float = 0.0,
) -> Draws:
    """The draws with these numbers of these pairs. `shape` is that of one image's latents, [C, h, w].

    With `noise_offset` the noise has this times a normal number per channel added, with `input_perturbation` the input
    alone has this times another normal noise added; both are drawn after all else, so the rest is as without them. Made
    on the CPU whatever the device, because generators differ between devices.
    """
    generator = torch.Generator()
    timestep, noise, uniform, added = [], [], [], []
    for pair_id, number in zip(pair_ids, numbers, strict=True):
        generator.manual_seed(address(seed, pair_id, number))
        timestep.append(torch.randint(num_timesteps, (), generator=generator))
        uniform.append(torch.rand((), generator=generator))
        one = torch.randn(shape, generator=generator)
        if noise_offset:
            one = one + noise_offset * torch.randn((shape[0], 1, 1), generator=generator)
        noise.append(one)
        more = torch.randn(shape, generator=generator) if input_perturbation else torch.zeros(())
        added.append((input_perturbation * more).expand(shape))
    return Draws(torch.stack(timestep), torch.stack(noise), torch.stack(uniform), torch.stack(added))
