"""`palate push`: a run's model and card to the hub, by the hub's own client and login."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from palate.errors import PalateError
from palate.reports.public import public
from palate.sharing.export import export, size_of


@dataclass(frozen=True)
class Sending:
    """What would be sent."""

    folder: Path
    sizes: dict[str, str]  # file -> its size in words
    card: str
    remark: str  # what to look at first; "" where there is nothing


def plan(run: str | Path, repository: str) -> Sending:
    """Write the folder that would be sent, RUN/exports/diffusers; nothing leaves the machine.

    Raises PalateError for a name that the hub does not allow, and as `palate.export` does.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if repository.count("/") != 1:
        raise PalateError("the repository is named owner/name, of letters, digits, '-', '_' and '.'.")
    folder = export(run, "diffusers")
    sizes = {path.relative_to(folder).as_posix(): size_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    card = (folder / "README.md").read_text(encoding="utf-8")
    unknown = ModelCard(card, ignore_metadata_errors=True).data.get("license") in (None, "unknown")
    remark = (
        "the base model's license is not known here. Read its terms before you publish; `license:` in its README.md is"
        " inherited"
    )
    return Sending(folder, sizes, card, remark if unknown else "")


def is_private(repository: str) -> bool | None:
    """Whether a repository of the hub is private; None where there is none yet, or the hub does not say."""
    try:
        return HfApi().model_info(repository).private
    except (HfHubHTTPError, HTTPError, OSError):
        return None


def push(run: str | Path, repository: str, private: bool = True, planned: Sending | None = None) -> str:
    """Send a finished run's model and card to `repository` (owner/name) on the hub; returns the address of the commit.

    A repository that is there keeps its visibility. `planned` is what `plan` gave for this run, which is made here
    where it is None. The token is that of the hub's own login or of HF_TOKEN. Raises PalateError, in one line: as
    `plan`, without a login, when the hub refuses or cannot be reached, and when the repository is public and `private`
    was asked for.
    """
    from palate.version import __version__

    sending = planned or plan(run, repository)
    if not get_token():
        raise PalateError("not logged in to the hub. Run `hf auth login`, or set HF_TOKEN to a token that may write.")
    api = HfApi(library_name="palate", library_version=__version__)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and api.model_info(repository).private is False:
            raise PalateError(
                f"{repository}: exists and is public. Push it with --no-private, or choose another name; nothing was"
                " sent."
            )
        return api.upload_folder(
            repo_id=repository, folder_path=sending.folder, commit_message=f"Trained with palate {__version__}"
        ).commit_url
    except HfHubHTTPError as error:
        raise PalateError(_refused(repository, error)) from error
    except (HTTPError, OSError) as error:
        raise PalateError(
            f"{api.endpoint}: the hub could not be reached ({type(error).__name__}). Nothing of the run is lost; push"
            " again."
        ) from error
    except (RuntimeError, ValueError) as error:  # from the transfer of large files
        raise PalateError(f"{repository}: the upload failed ({_line(error)}). Push again: it goes on.") from error


def _refused(repository: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    why = {
        401: "it does not know this login: run `hf auth login` again, or set HF_TOKEN",
        403: "this login may not write there",
        404: "there is no such owner, or this login may not see it",
    }
    told = why.get(status) or _line(error.server_message or "no reason given")
    return f"{repository}: the hub refused ({status}): {told}."


def _line(told: object) -> str:
    """The beginning of a message on one line, without secrets."""
    return public(" ".join(str(told).split()))[:200]
