"""The parameters of every heuristic filter, with their published sources."""

from tatara.data.filters.config_c4 import BadWordsConfig, C4Config, C4LinesConfig, LengthConfig, UrlFilterConfig
from tatara.data.filters.config_gopher import GopherQualityConfig, GopherRepetitionConfig
from tatara.data.filters.config_shape import FineWebConfig, JapaneseConfig, RepetitionConfig

__all__ = [
    "BadWordsConfig",
    "C4Config",
    "C4LinesConfig",
    "FineWebConfig",
    "GopherQualityConfig",
    "GopherRepetitionConfig",
    "JapaneseConfig",
    "LengthConfig",
    "RepetitionConfig",
    "UrlFilterConfig",
]
