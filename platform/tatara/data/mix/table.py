"""The sources of a mixture, as its configuration or a table says."""

import csv
import io
import math
from typing import Any

import yaml

from tatara import storage
from tatara.config import load
from tatara.data.mix.config import OTHER, MixConfig, MixSource, check_weights
from tatara.errors import ConfigError


def sources_of(config: MixConfig) -> dict[str, MixSource]:
    """The sources in order, with ``other`` last if there is one.

    Raises:
        ConfigError: The table cannot be read, or does not hold sources.
    """
    sources = dict(config.sources)
    if config.table is not None:
        for row in _rows(config.table):
            name = row.pop("name", None)
            if not isinstance(name, str) or not name or name in sources or name == OTHER:
                raise ConfigError(f"{config.table}: {name!r} cannot be a source's name: it is empty, taken or reserved")
            sources[name] = load(MixSource, row, where=f"{config.table}: {name}")
    if config.other is not None:
        sources[OTHER] = config.other
    if not sources:
        raise ConfigError(f"{config.table} holds no sources")
    try:
        check_weights(sources)
    except ValueError as error:
        raise ConfigError(f"{config.table or 'mix'}: {error}") from None
    return sources


def _rows(path: str) -> list[dict[str, Any]]:
    suffix = path.rpartition(".")[2].lower()
    data = storage.read_bytes(path)
    rows: Any
    try:
        if suffix == "parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(io.BytesIO(data)).to_pylist()
        elif suffix == "csv":
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
        elif suffix in ("yaml", "yml"):
            rows = yaml.safe_load(data.decode("utf-8"))
            if isinstance(rows, dict):
                rows = [{"name": name, **(values or {})} for name, values in rows.items()]
        else:
            raise ConfigError(f"{path}: a table of sources is a .csv, .yaml or .parquet file")
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the table of sources {path}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path} does not hold a table of sources")
    return [{key: value for key, value in row.items() if not _absent(value)} for row in rows]


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
