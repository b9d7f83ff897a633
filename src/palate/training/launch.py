"""Several processes started on this machine, as `palate train FILE --processes 2` does; each runs worker.py.

The process that started them reports their first error, once. When that process ends, however it ends, they end too.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from palate.command import command_line
from palate.errors import PalateError
from palate.run.config import TrainConfig
from palate.run.load import save_config
from palate.training import worker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
REFUSED = f"{PalateError.__name__}: "


def launch(config: TrainConfig) -> None:
    """Train in `config.processes` processes, and wait for them. Raises PalateError when they refuse or one of them
    dies, KeyboardInterrupt when they are stopped."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else config.processes
    if config.processes > gpus:
        raise PalateError(f"processes: {config.processes}, but this machine has {gpus} GPU(s). Each process takes one.")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # our one line below reports the error
    own = {name: signal.getsignal(name) for name in SIGNALS if threading.current_thread() is threading.main_thread()}
    with tempfile.TemporaryDirectory(prefix="palate-") as folder, _environment(config):
        save_config(config, Path(folder) / "config.yaml")
        how = LaunchConfig(
            1,
            1,
            config.processes,
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            shutdown_timeout=5,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(how, sys.executable)("-m", worker.__name__, f"{folder}/config.yaml", command_line())
        except ChildFailedError as error:
            _, first = error.get_first_failure()
            raise PalateError(_told(first)) from None
        except SignalException as error:
            raise KeyboardInterrupt from error
        finally:
            for name, handler in own.items():
                signal.signal(name, handler)


@contextlib.contextmanager
def _environment(config: TrainConfig) -> Iterator[None]:
    """Set the environment of the processes; this process's own is restored afterwards."""
    source = str(Path(__file__).parents[2])
    added = {
        worker.PARENT: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // config.processes))),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    }
    if config.cache:
        added[worker.CACHE] = config.cache
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _told(failure: ProcessFailure) -> str:
    """One line about why a process ended."""
    if failure.exitcode < 0:
        return (
            f"training: process {failure.local_rank} was killed (signal {-failure.exitcode}), perhaps for want of"
            " memory. The same command resumes from the newest checkpoint."
        )
    recorded = failure.error_file_data.get("message", failure.message)
    message = str(recorded.get("message") if isinstance(recorded, dict) else recorded)
    if message.startswith(REFUSED):
        return message.removeprefix(REFUSED)
    return f"training: process {failure.local_rank} failed ({' '.join(message.split())[:300]})."
