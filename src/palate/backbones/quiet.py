"""Without the remarks and bars of the libraries that read models: what comes of them is told in one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub client's lines about attempts that it makes again."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without what diffusers says, and draws, while it opens a file."""
    from diffusers.utils import logging as diffusers_logging

    before, bars = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    try:
        with quiet_hub():
            yield
    finally:
        diffusers_logging.set_verbosity(before)
        if bars:
            diffusers_logging.enable_progress_bar()
