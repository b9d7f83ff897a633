"""The propensities that a labelling gave to pairs: a small table beside the pairs, so that it rewrites no picture.

It holds over the column of the same name. It is replaced as a whole, so a reader sees all of the old one or all of the
new.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from palate.data.shards import open_shard, write_table

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)
FILE = "propensity.parquet"
PROPENSITY = pa.schema([pa.field("pair_id", pa.string(), nullable=False), pa.field("propensity", pa.float64())])


def read_propensity(dataset: Path) -> pa.Table | None:
    """The table of the dataset in this folder (pair_id, propensity), or None where there is none.

    Raises PalateError when the file is damaged.
    """
    file = dataset / FILE
    if not file.exists():
        return None
    with open_shard(file, PROPENSITY) as opened:
        return opened.read(columns=PROPENSITY.names).replace_schema_metadata().combine_chunks()


def write_propensity(dataset: Path, propensity: Mapping[str, float]) -> None:
    """Set the propensity of these pairs, by pair_id, and keep that of the others; atomic."""
    there = read_propensity(dataset)
    old = {} if there is None else dict(zip(*(there[name].to_pylist() for name in PROPENSITY.names), strict=True))
    new = old | dict(propensity)
    table = pa.table([list(new), list(new.values())], schema=PROPENSITY)
    write_table(dataset / FILE, table)


def apply_propensity(rows: Rows, known: pa.Table | None) -> Rows:
    """`rows` of pairs (pair_id, propensity, ...) with the propensities of `known` where it has them."""
    if known is None:
        return rows
    at = pc.index_in(rows["pair_id"], value_set=known["pair_id"].combine_chunks())
    column = pc.coalesce(pc.take(known["propensity"].combine_chunks(), at), rows["propensity"])
    place = rows.schema.get_field_index("propensity")
    return rows.set_column(place, rows.schema.field("propensity"), column)
