"""Run in a process of its own: start an engine, sample greedily, print, then wait to be killed.

Arguments: model directory, prompt token ids as JSON, number of tokens, keyword arguments of EngineConfig as JSON, and
the directory of weights to go on with after the first sampling, if any.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tatara.engine.config import EngineConfig
from tatara.engine.environment import engine_environment
from tatara.errors import EngineError


async def main(model: str, prompts: str, tokens: str, config: str, update: str = "") -> None:
    from vllm import SamplingParams

    from tatara.engine.engine import Engine

    settings = EngineConfig.model_validate_json(config)
    try:
        engine = await Engine.start(Path(model), settings, cuda=False, name="tiny")
    except EngineError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps(await sampled(engine, prompts, tokens)), flush=True)
    if update:
        from tatara.model.safetensors_files import TensorDirectory

        # In flight while the weights change.
        long = SamplingParams(max_tokens=150, temperature=0.0, ignore_eos=True)
        flying = asyncio.create_task(engine.generate([1, 2, 3], long))
        await asyncio.sleep(0.05)
        await engine.update_weights(TensorDirectory(Path(update)), 7, bucket_bytes=100_000)
        again = await sampled(engine, prompts, tokens)
        ended = await flying
        print(json.dumps(again | {"version": engine.version, "flown": len(ended.outputs[0].token_ids)}), flush=True)
    if sys.stdin.readline().strip() == "stop":
        engine.shutdown()


async def sampled(engine: Any, prompts: str, tokens: str) -> dict[str, Any]:
    from vllm import SamplingParams

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
    return {"outputs": found, "dtype": str(engine.client.model_config.dtype)}


if __name__ == "__main__":
    os.environ.update(engine_environment(cuda=False))
    asyncio.run(main(*sys.argv[1:]))
