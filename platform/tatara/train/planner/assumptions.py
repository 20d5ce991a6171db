"""What the prediction of a step's time takes for granted: stated in full, and printed with every plan.

Only ``matmul`` and ``attention`` were chosen by looking at a published run: both so that the three rows of Llama 3's
table 4 (arXiv:2407.21783: 43, 41 and 38 %) come out within 3 points, the same for all rows. FLOPs are counted as
`ModelSpec.flops_per_token` does, with causal attention; at 131,072 tokens attention is 40 % of them, and no other usual
count (no attention, or the full square) agrees with the third row and the first two at once. Runs that nothing was
chosen by: Megatron-LM on A100 (arXiv:2205.05198 table 5) comes out 7 points too low to 4 too high, NVIDIA's dense FP8
runs on H100 0 to 6 points too low (they hide tensor parallelism by Transformer Engine). Mixtures of experts come out
too fast, by up to a half: grouped products of many small experts, routing and uneven loads cost more than is counted.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumptions:
    """Shares and times that no data sheet holds. The defaults were chosen once, for all models and layouts."""

    matmul: float = 0.80
    """Of what the best matrix product reaches (`Hardware.reached`), what those of a training step reach: the clock
    falls under the power of real data for hours, shapes are not the best one, and ranks wait for the slowest."""
    attention: float = 0.75
    """Rate of attention kernels, backward pass included, over that of matrix products (on Hopper 475 TFLOP/s, between
    FlashAttention-2, arXiv:2307.08691 figure 7, and FlashAttention-3, arXiv:2407.08608 figures 5 and 6)."""
    links: float = 0.80
    """Of a link's published rate, what collectives of many megabytes reach (busbw of nccl-tests: 360 of 450 GB/s)."""
    memory: float = 0.80
    """Of the memory's published bandwidth, what kernels that only move data reach."""
    tensor_exposed: float = 1.0
    """Share of the tensor-parallel exchange that no computation hides. Megatron-core runs 4 of a layer's 10 collectives
    beside a matrix product, which then shares the device's processors with them; nothing is counted as won by that.
    Transformer Engine's overlap would hide more."""
    context_exposed: float = 1.0
    """The same of the context-parallel exchange: attention waits for keys and values (arXiv:2407.21783, 3.3.2)."""
    expert_exposed: float = 1.0
    """The same of the exchange of tokens between experts."""
    latency: float = 15e-6
    """Seconds that a collective takes at least."""
    layer_seconds: float = 150e-6
    """Seconds that launching the kernels of a layer takes, one way: small layers cannot be faster."""

    def lines(self) -> list[str]:
        """Each as a sentence."""
        return [
            f"matrix products reach {self.matmul:.0%} of the best one measured on the device; small ones are slowed by "
            "their memory traffic",
            f"attention kernels run at {self.attention:.0%} of that rate and compute the causal half; their backward "
            "pass does 2.5 times the work of the forward pass",
            f"collectives reach {self.links:.0%} of a link, kernels that move data {self.memory:.0%} of the memory",
            f"exposed: {self.tensor_exposed:.0%} of tensor-parallel, {self.context_exposed:.0%} of context-parallel, "
            f"{self.expert_exposed:.0%} of expert-parallel exchange; pipeline sends in the plain schedule, in the "
            "interleaved one only while it fills and drains",
            "gradients (float32) are reduced during the last backward pass, weights gathered during the first forward "
            "pass; what takes longer is exposed",
            "the slowest pipeline stage sets the pace; bubble (pp - 1) / (virtual stages x micro-batches)",
            "MFU counts model FLOPs: 6 per weight and token, attention causal (half the square), no recomputation, "
            "over the published dense peak",
        ]
