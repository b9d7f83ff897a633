"""Which human votes had a part in a run: the votes that it cannot judge as if it had not seen them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from palate.errors import PalateError
from palate.files import atomic_path

FILE = "human_votes.parquet"


def save_votes_used(run: Path, pair_ids: frozenset[str], start_from: str | None) -> None:
    """Add these pairs, and those of the run that it started from, to human_votes.parquet of the run.

    Where that earlier run has no such file nothing is written: a record that leaves votes out is worse than none.
    """
    if start_from is not None:
        if not (Path(start_from) / FILE).is_file():
            return
        pair_ids = pair_ids | votes_used(Path(start_from))
    if (run / FILE).is_file():  # it goes on, and the dataset may have changed since
        pair_ids = pair_ids | votes_used(run)
    with atomic_path(run / FILE) as temporary:
        table = pa.table({"pair_id": pa.array(sorted(pair_ids), pa.string())})
        pq.write_table(table, temporary, write_page_checksum=True)


def votes_used(run: Path) -> frozenset[str]:
    """The pair_ids of all human votes that the run was trained on. Raises PalateError where it does not say."""
    try:
        return frozenset(pq.read_table(run / FILE, page_checksum_verification=True)["pair_id"].to_pylist())
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise PalateError(
            f"{run}: does not say which human votes it was trained on ({FILE} is missing or damaged). Its `palate"
            " train` command writes that file again; nothing is trained anew."
        ) from error
