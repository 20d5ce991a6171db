"""Run in a process of its own: start an engine, sample greedily, print, then wait to be killed.

Arguments: model directory, prompt token ids as JSON, number of tokens, keyword arguments of EngineConfig as JSON.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from tatara.engine.config import EngineConfig
from tatara.engine.environment import engine_environment
from tatara.errors import EngineError


async def main(model: str, prompts: str, tokens: str, config: str) -> None:
    from vllm import SamplingParams

    from tatara.engine.engine import Engine

    settings = EngineConfig.model_validate_json(config)
    try:
        engine = await Engine.start(Path(model), settings, cuda=False, name="tiny")
    except EngineError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    params = SamplingParams(max_tokens=int(tokens), temperature=0.0, ignore_eos=True, logprobs=0)
    outputs = await asyncio.gather(*(engine.generate(prompt, params) for prompt in json.loads(prompts)))
    found = [
        {
            "tokens": list(output.outputs[0].token_ids),
            "logprobs": [
                step[token].logprob
                for step, token in zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True)
            ],
        }
        for output in outputs
    ]
    print(json.dumps({"outputs": found, "dtype": str(engine.client.model_config.dtype)}), flush=True)
    if sys.stdin.readline().strip() == "stop":
        engine.shutdown()


if __name__ == "__main__":
    os.environ.update(engine_environment(cuda=False))
    asyncio.run(main(*sys.argv[1:]))
