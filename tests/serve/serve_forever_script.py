"""Run in a process of its own: serve a model until a signal. Arguments: model directory, port."""

import sys
from pathlib import Path

from tatara.engine.config import EngineConfig
from tatara.errors import TataraError
from tatara.serve.config import ServeConfig
from tatara.serve.forever import serve_forever


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    config = ServeConfig(port=int(sys.argv[2]), engine=EngineConfig(kv_cache_bytes=64 << 20))
    try:
        serve_forever(Path(sys.argv[1]), config, log=say)
    except TataraError as error:
        sys.exit(str(error))
