"""Map a stateful worker over a table, batch by batch: in this process, or on a pool of Ray actors.

The caller commits each result as it comes, by its own key, so nothing is lost or doubled when a worker, a machine or
this process dies: only uncommitted work is done again.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from palate.errors import PalateError, did_you_mean

Batch = list[Any]  # of inputs, or of results
Work = Callable[[Batch], Batch]
ENGINES = ("local", "ray")
MOST_LOSSES = 20  # workers lost in a row before giving up


def mapped(
    make: Callable[[], Work], batches: Iterable[Batch], *, engine: str = "local", workers: int = 1, gpus: float = 0.0
) -> Iterator[tuple[Batch, Batch]]:
    """Every batch with its results, in order of completion.

    `make` builds a worker, once in this process or once per actor (it is pickled then); a worker maps a batch to as
    many results. `gpus` is what each Ray actor reserves. A batch whose actor died is given to another one. Raises
    PalateError for an engine that does not exist or is not installed, when workers keep dying, and whatever a worker
    raises.
    """
    if engine not in ENGINES:
        raise PalateError(f"engine {engine!r} is none of {', '.join(ENGINES)}{did_you_mean(engine, ENGINES)}")
    if workers < 1:
        raise PalateError(f"workers: {workers}, but at least one must work.")
    if engine == "ray":
        yield from _on_ray(make, iter(batches), workers, gpus)
        return
    work = make()
    for batch in batches:
        yield batch, work(batch)


def _on_ray(
    make: Callable[[], Work], batches: Iterator[Batch], workers: int, gpus: float
) -> Iterator[tuple[Batch, Batch]]:
    ray = _ray()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)  # joins the cluster that RAY_ADDRESS names, if it does
    died = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError)

    class Worker:
        def start(self, make: Callable[[], Work]) -> None:
            self.work = make()

        def run(self, batch: Batch) -> Batch:
            return self.work(batch)

    actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker)

    def started() -> tuple[Any, tuple[Any, None]]:
        worker = actor.remote()
        return worker.start.remote(make), (worker, None)

    # future result -> its worker and its batch (None: the worker only starts). Work goes to workers that have started,
    # because a machine that was lost may leave no room for another worker, and a batch given to it would wait for ever
    busy: dict[Any, tuple[Any, Batch | None]] = dict(started() for _ in range(workers))
    idle: list[Any] = []
    again: deque[Batch] = deque()
    losses = 0
    try:
        while True:
            while idle and (batch := again.popleft() if again else next(batches, None)) is not None:
                worker = idle.pop()
                busy[worker.run.remote(batch)] = (worker, batch)
            if idle and all(batch is None for _, batch in busy.values()):
                return  # no worker is busy, and there was no batch for the idle ones
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            worker, batch = busy.pop(done)
            try:
                result = ray.get(done)
            except died as error:
                losses += 1
                if losses > MOST_LOSSES:
                    raise PalateError(
                        f"ray: {losses} workers in a row died ({type(error).__name__}). Look at memory and GPUs of the "
                        "machines; what was finished is kept, and the same command resumes."
                    ) from error
                if batch is not None:
                    again.append(batch)
                busy.update([started()])
                continue
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            idle.append(worker)
            if batch is not None:
                losses = 0
                yield batch, result
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            ray.kill(worker, no_restart=True)


def _cause(error: Exception) -> Exception:
    """The error that the worker raised, where it is a line for the user."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, PalateError) else error


def _ray() -> Any:  # Ray makes `remote` of a class when it runs: no checker sees it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # off unless the user turns it on
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise PalateError(
            "engine ray: Ray is not installed. pip install 'palate[ray]', or use --engine local."
        ) from error
    return ray
