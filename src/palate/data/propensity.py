"""The propensities of pairs after a labelling: a small table beside the pairs, so that no picture is rewritten.

It overrides the column of the same name. It is replaced as a whole, so a reader sees all of the old table or all of the
new one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from palate.data.schema import OVERALL
from palate.data.shards import open_shard, write_table

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)
FILE = "propensity.parquet"
PROPENSITY = pa.schema([pa.field("pair_id", pa.string(), nullable=False), pa.field("propensity", pa.float64())])
BY_QUESTION = PROPENSITY.append(pa.field("question", pa.string()))  # null: overall


def read_propensity(dataset: Path, question: str = OVERALL) -> pa.Table | None:
    """The table of the dataset in this folder (pair_id, propensity) for one question, or None where there is none.

    Raises PalateError when the file is damaged.
    """
    if (every := _read(dataset)) is None:
        return None
    asked = pc.fill_null(every["question"], OVERALL)
    return every.filter(pc.equal(asked, question)).select(PROPENSITY.names).combine_chunks()


def write_propensity(dataset: Path, propensity: Mapping[str, float], question: str = OVERALL) -> None:
    """Set the propensity of these pairs to be asked a question, by pair_id, and keep all others; atomic."""
    there, own = _read(dataset), None if question == OVERALL else question
    columns = [] if there is None else [there[name].to_pylist() for name in ("pair_id", "question", "propensity")]
    known = {(pair_id, asked): value for pair_id, asked, value in zip(*columns, strict=True)}
    known |= {(pair_id, own): value for pair_id, value in propensity.items()}
    rows = [{"pair_id": pair_id, "propensity": value, "question": asked} for (pair_id, asked), value in known.items()]
    schema = BY_QUESTION if any(asked is not None for _, asked in known) else PROPENSITY
    write_table(dataset / FILE, pa.Table.from_pylist(rows, schema=schema))


def _read(dataset: Path) -> pa.Table | None:
    """The whole table, with a column of questions, or None where there is none."""
    file = dataset / FILE
    if not file.exists():
        return None
    with open_shard(file, PROPENSITY) as opened:
        table = opened.read().replace_schema_metadata()
    if "question" not in table.column_names:
        table = table.append_column("question", pa.nulls(len(table), pa.string()))
    return table.select(BY_QUESTION.names)


def apply_propensity(rows: Rows, known: pa.Table | None) -> Rows:
    """`rows` of pairs (pair_id, propensity, ...) with the propensities of `known` where it has them."""
    if known is None:
        return rows
    at = pc.index_in(rows["pair_id"], value_set=known["pair_id"].combine_chunks())
    column = pc.coalesce(pc.take(known["propensity"].combine_chunks(), at), rows["propensity"])
    place = rows.schema.get_field_index("propensity")
    return rows.set_column(place, rows.schema.field("propensity"), column)
