"""Silence the messages and progress bars of the libraries that read models; palate reports the outcome in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from palate.hub import quiet_hub


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence diffusers' messages and bars while it opens a file."""
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
