"""Networks translated by torch.compile, and the proof that their gradients are still right."""

import torch

from palate.errors import PalateError
from palate.training.networks import Networks, Problem

BACKEND = "inductor"
MOST = 0.1  # relative error of a gradient: bf16 stays below, a wrong translation does not


def compile_network(network: torch.nn.Module) -> None:
    """Have torch.compile translate the network on its first call, in place: names of parameters stay as they are."""
    network.compile(backend=BACKEND)


def check_compiled(networks: Networks, problem: Problem) -> None:
    """Compare the gradient of the policy's errors on one micro-batch with that of the network as it is; none is kept.

    Raises PalateError when they differ: some versions of torch translate the backward of convolutional networks wrongly
    on some devices, without an error, and with the right output.
    """
    compiled = _gradient(networks, problem)
    with torch.compiler.set_stance("force_eager"):
        plain = _gradient(networks, problem)
    error = ((compiled - plain).norm() / plain.norm()).item()
    if not error < MOST:
        raise PalateError(
            f"compile: the gradient of the compiled network is wrong by {100 * error:.0f} % (torch {torch.__version__},"
            f" {networks.accelerator.device}). Remove compile, or install another version of torch."
        )


def _gradient(networks: Networks, problem: Problem) -> torch.Tensor:
    """Of the trained parameters, in one row, fp32."""
    parameters = networks.policy.parameters
    error, _ = networks.policy_errors(problem)  # [K, B]
    side = torch.linspace(-1, 1, error.numel(), device=error.device).view_as(
        error
    )  # what images share is not to cancel
    found = torch.autograd.grad((side * error).sum(), parameters, allow_unused=True)
    return torch.cat([
        torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)
    ]).float()  # fmt: skip
