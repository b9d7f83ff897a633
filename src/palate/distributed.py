"""Several processes on one run: whose rows are whose, sums and gathers over all of them, and who writes.

Every process makes the same plan of batches and takes its part of the rows of each micro-batch; draws are addressed, so
a row is the same row wherever it is computed. With one process every function here gives back what it was given, and
communicates nothing.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from palate.errors import PalateError

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # the others wait while the first process encodes a dataset
BUCKET = 2**25  # elements that are summed over the processes at once


def launched() -> bool:
    """Whether this process is one of several that a launcher started (palate's own, torchrun, accelerate launch)."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def processes() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The place of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Meet the other processes of a launcher, if there are any, and part at the end. All but the first print nothing.

    Inside another such block it does nothing. After an error nobody is waited for: the launcher ends the others.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= gpus:
            raise PalateError(
                f"process {place + 1} of this machine, which has {gpus} GPU(s). Each process takes one; start fewer."
            )
        torch.cuda.set_device(place)
    dist.init_process_group(timeout=PATIENCE)
    with contextlib.ExitStack() as stack:
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
        dist.barrier()
        dist.destroy_process_group()


# --- who does what ---------------------------------------------------------------------------------------------------


def first_alone(do: Callable[[], object]) -> None:
    """`do` in the first process while the others wait. Raises its PalateError in all of them."""
    problem = None
    if is_first():
        try:
            do()
        except PalateError as error:
            problem = error
            if processes() == 1:
                raise
    told = first_says(str(problem) if problem else None)
    if told is not None:
        raise problem or PalateError(told)


def first_before_others(do: Callable[[], T]) -> T:
    """`do` in the first process, then in the others, which find done what it leaves on disk; the result of each."""
    result: list[T] = []
    first_alone(lambda: result.append(do()))
    return result[0] if result else do()


def first_says(value: T) -> T:
    """The first process's value, in every process."""
    if processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def in_turn(do: Callable[[], object]) -> None:
    """`do` in one process after another."""
    for turn in range(processes()):
        if turn == rank():
            do()
        wait()


def wait() -> None:
    """Until every process is here."""
    if processes() > 1:
        dist.barrier()


# --- rows ------------------------------------------------------------------------------------------------------------


def counts(rows: int) -> list[int]:
    """How many of a micro-batch's rows each process takes: as even as can be, the first ones one more."""
    share, rest = divmod(rows, processes())
    return [share + (place < rest) for place in range(processes())]


def part(rows: int) -> slice:
    """The rows of a micro-batch that are this process's."""
    before = counts(rows)[: rank()]
    return slice(sum(before), sum(before) + counts(rows)[rank()])


def mean_part(values: Tensor, rows: int) -> Tensor:
    """This process's part of the mean over a micro-batch of `rows` rows, from its own values [n]: the sum over the
    processes is the mean."""
    return values.mean() if processes() == 1 else values.mean() * (len(values) / rows)


def gather(values: Tensor, numbers: list[int]) -> Tensor:
    """The values [n, ...] of all processes, of which each has as many as `numbers` says, in their order, without
    gradient."""
    if processes() == 1:
        return values
    if values.dtype == torch.bool:
        return gather(values.to(torch.uint8), numbers).bool()
    padded = values.new_zeros(max(numbers), *values.shape[1:])
    padded[: len(values)] = values.detach()
    everywhere = [torch.empty_like(padded) for _ in numbers]
    dist.all_gather(everywhere, padded)
    return torch.cat([one[:number] for one, number in zip(everywhere, numbers, strict=True)])


# --- numbers and gradients -------------------------------------------------------------------------------------------


def total(value: float) -> float:
    """The sum over the processes."""
    return float(_reduced(value, dist.ReduceOp.SUM)) if processes() > 1 else value


def largest(value: int) -> int:
    """The largest over the processes."""
    return int(_reduced(value, dist.ReduceOp.MAX)) if processes() > 1 else value


def everybody_says(values: list[T]) -> list[T]:
    """The lists of all processes, one after another."""
    if processes() == 1:
        return values
    lists: list[Any] = [None] * processes()
    dist.all_gather_object(lists, values)
    return [value for one in lists for value in one]


@torch.no_grad()
def sum_gradients(gradients: list[Tensor]) -> None:
    """Replace each gradient by its sum over the processes, many at a time."""
    if processes() == 1:
        return
    bucket: list[Tensor] = []
    for place, gradient in enumerate(gradients):
        bucket.append(gradient)
        if place + 1 == len(gradients) or sum(one.numel() for one in bucket) >= BUCKET:
            flat = torch.cat([one.reshape(-1) for one in bucket])
            dist.all_reduce(flat)
            for one, summed in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                one.copy_(summed.view_as(one))
            bucket = []


def _reduced(value: float, operation: dist.ReduceOp.RedOpType) -> Tensor:
    tensor = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(tensor, operation)
    return tensor
