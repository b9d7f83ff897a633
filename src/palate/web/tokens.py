"""Personal links: a signed token says who votes. It travels after the # of a link, so no server log ever sees it."""

import os
import secrets
import time
from pathlib import Path

from itsdangerous import BadSignature, URLSafeTimedSerializer

from palate.errors import PalateError

SECRET = "label.secret"


def load_secret(folder: Path) -> str:
    """The secret of a dataset's links, made on first use, readable by its owner alone (mode 0600)."""
    path = folder / SECRET
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        pass
    except OSError as error:
        raise PalateError(
            f"{path}: not writable ({error.strerror}). Links are signed with a secret kept there."
        ) from error
    try:
        os.chmod(path, 0o600)
        secret = path.read_text().strip()
    except OSError as error:
        raise PalateError(f"{path}: not readable ({error.strerror}). Links are signed with it.") from error
    if len(secret) < 32:
        raise PalateError(f"{path}: not a secret of `palate label`. Delete it; old links then stop working.")
    return secret


def make_token(secret: str, name: str, role: str) -> str:
    """A token for `name` in a role, rater or owner."""
    return _signer(secret).dumps([role, name])


def read_token(secret: str, token: str, days: float) -> tuple[str, str]:
    """(role, name) of a token not older than `days`. Raises PalateError, in words for the person who holds the link."""
    try:
        (role, name), made = _signer(secret).loads(token, return_timestamp=True)
    except (BadSignature, ValueError, TypeError) as error:
        raise PalateError(
            "this link is not complete or not for this page. Copy all of it, or ask for a new one."
        ) from error
    # an age below 0, because the clock was set back, is none
    if time.time() - made.timestamp() > days * 86_400:
        raise PalateError("this link has expired. Ask for a new one.")
    return role, name


def _signer(secret: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(secret, salt="palate label")
