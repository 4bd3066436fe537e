"""Where train rows stand in their source."""

from __future__ import annotations

from tasks.config.schema import SearchConfig
from tasks.contracts import BaseModelRef, SubDatasetRef
from tasks.data.encoder import make_encoder
from tasks.data.sources import read_splits


def train_places(config: SearchConfig, model: BaseModelRef, part: SubDatasetRef) -> list[str]:
    """Return where each usable train row of a sub-dataset stands in its source: file and line, or split and row."""
    own = next(one for one in config.mixture.sub_datasets if one.name == part.name)
    examples = read_splits(config, own)["train"]
    if len(examples) != part.train.num_rows:  # some were dropped as too long
        encoder = make_encoder(config, model)
        rows = zip(examples, encoder.encode_all(examples), strict=True)
        examples = [e for e, row in rows if not isinstance(row, Exception) and row["num_tokens"] <= encoder.max_length]
    return [example.where for example in examples]
