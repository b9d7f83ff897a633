"""The program of each process that `palate train FILE --processes 2` starts."""

import logging
import os
import sys
import threading
import time

from torch.distributed.elastic.multiprocessing.errors import record

from palate.command import said_as
from palate.errors import PalateError
from palate.run.load import load_config

PARENT = "PALATE_LAUNCHER"  # its process id, in the environment of those that it starts
CACHE = (
    "PALATE_LAUNCHER_CACHE"  # the address of the cache; its password must be in no file, so the configuration lacks it
)


def end_with_launcher() -> None:
    """End this process soon after its parent process ends, which may have been killed without notice."""
    launcher = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@record
def work(file: str, command: str) -> None:
    """Take part in the training of this configuration file. Raises PalateError when it is refused."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # as the command line does
    from palate.training.loop import train_in_this_process  # after its libraries were told to be quiet

    try:
        with said_as(command):
            cache = {"cache": os.environ[CACHE]} if CACHE in os.environ else {}
            train_in_this_process(load_config(file, **cache))
    except PalateError as error:  # subclasses too: the launcher recognises it by this name
        raise PalateError(str(error)) from None


if __name__ == "__main__":
    end_with_launcher()
    try:
        work(*sys.argv[1:])
    except Exception:  # recorded for the parent process
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(130)
