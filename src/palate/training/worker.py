"""What each process of a training runs that `palate train FILE --processes 2` started."""

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


def end_with_launcher() -> None:
    """End this process soon after the one that started it, which may have been killed and told nobody."""
    launcher = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@record
def work(file: str, command: str) -> None:
    """Take part in the training that this configuration file says. Raises PalateError when it is refused."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # as the command line does
    from palate.training.loop import train_in_this_process  # after its libraries were told to be quiet

    try:
        with said_as(command):
            train_in_this_process(load_config(file))
    except PalateError as error:  # of every kind: by this name the other side knows it
        raise PalateError(str(error)) from None


if __name__ == "__main__":
    end_with_launcher()
    try:
        work(*sys.argv[1:])
    except Exception:  # it is on record, for the process that started this one
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(130)
