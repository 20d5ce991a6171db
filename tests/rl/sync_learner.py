"""A learner in an actor of its own: one rank of the trainer, and what it publishes."""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = {"PYTHONPATH": f"{os.path.join(os.path.dirname(TESTS), 'platform')}:{TESTS}", "OMP_NUM_THREADS": "1"}


class SyncLearner:
    """Starts with the weights of a directory."""

    def __init__(self, model: str) -> None:
        import json
        from pathlib import Path

        from tatara.model.hf_loading import load_from_directory
        from tatara.model.hf_spec import spec_from_hf
        from tatara.model.safetensors_files import TensorDirectory
        from tatara.train.engine import Engine
        from tatara.train.layout import ParallelLayout
        from tatara.train.optimizer import AdamSettings

        rendezvous = tempfile.mkstemp()[1]
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        import torch.distributed as dist

        os.unlink(rendezvous)
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
        spec = spec_from_hf(json.loads((Path(model) / "config.json").read_text()))
        self.engine = Engine(spec, ParallelLayout(), AdamSettings(), micro_batch_size=1)
        load_from_directory(self.engine.chunks, spec, TensorDirectory(Path(model)))

    def publish_and_hear(self, buffer: str, version: int, bucket_bytes: int, objects: bool = False) -> Any:
        """Change the weights, unless it is to be said again, and publish them by broadcast over gloo where that can be.

        Returns:
            What the publisher says, the lines that it wrote, and the digest of the weights.
        """
        from tatara.rl.client import BufferClient
        from tatara.rl.publisher import Publisher, Sending

        if not hasattr(self, "_publisher"):
            client, self._lines = BufferClient(buffer, 120.0), []
            sending = Sending("gloo", bucket_bytes, 120.0)
            self._publisher = Publisher(self.engine, client, sending, lambda code: code, self._lines.append)
        if not objects:
            self._move(version, 0.05)
        found = self._publisher.publish(version, [], objects=objects)
        said, self._lines[:] = tuple(self._lines), []
        return found, said, self.digest()

    def digest(self) -> str:
        """Of every bit of the weights under their Hugging Face names."""
        from rl.broadcast_member import digest
        from tatara.model.hf import stream_to_hf

        return digest(stream_to_hf(self.engine.chunks, self.engine.spec))

    def publish(
        self, buffer: str, version: int, probe_ids: Sequence[Sequence[int]], bucket_bytes: int, move: float = 0.05
    ) -> Any:
        """Change the weights, unless it is version 0, and publish them.

        Returns:
            What `publish` says.
        """
        from tatara.rl.client import BufferClient
        from tatara.rl.weight_sync import publish

        self._move(version, move)
        self._client = BufferClient(buffer, 120.0)
        return publish(self.engine, self._client, version, probe_ids, bucket_bytes=bucket_bytes)

    def _move(self, version: int, move: float) -> None:
        import torch

        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for chunk in self.engine.chunks:
                for parameter in chunk.parameters():
                    if version and move:
                        parameter += move * torch.randn(parameter.shape, generator=generator).to(parameter)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """What the trainer says of every token but the first."""
        import numpy as np

        from tatara.train.feed.batches import Batch

        found = []
        for sequence in sequences:
            ids = np.asarray([sequence], np.int64)
            shape = (1, len(sequence) - 1)
            positions = np.arange(shape[1])[None]
            batch = Batch(ids[:, :-1], ids[:, 1:], np.ones(shape, np.float32), positions, np.zeros(shape, np.int64))
            found.append(self.engine.token_logprobs([batch])[0][0].tolist())
        return found
