"""How a model and a batch are laid out over ranks: pure arithmetic, checked before any process starts."""

from pydantic import Field

from tatara.config import Config
from tatara.errors import LayoutError
from tatara.model.spec import ModelSpec


class ParallelLayout(Config):
    """Sizes of the parallel dimensions. Their product (expert parallelism aside) is the world size."""

    tp: int = Field(default=1, ge=1)
    """Tensor parallel size: ranks that share each weight matrix."""
    pp: int = Field(default=1, ge=1)
    """Pipeline parallel size: ranks that share the stack of layers."""
    cp: int = Field(default=1, ge=1)
    """Context parallel size: ranks that share each sequence."""
    ep: int = Field(default=1, ge=1)
    """Expert parallel size: ranks that share the experts of a mixture-of-experts layer."""
    dp: int | None = Field(default=None, ge=0)
    """Data parallel size: replicas that share each global batch; empty or 0 means what is left of the world size."""
    virtual_stages: int = Field(default=1, ge=1)
    """Model chunks per pipeline rank (interleaved schedule); 1 is the plain schedule."""
    first_stage_layers: int | None = Field(default=None, ge=1)
    """Layers of the first pipeline rank, which also holds the embedding; null means as many as the others. With virtual
    stages it may be one fewer than the others have (arXiv:2407.21783 section 3.3.2): the embedding then takes the place
    of a layer in its first chunk."""
    last_stage_layers: int | None = Field(default=None, ge=1)
    """Layers of the last pipeline rank, which also holds the output projection and the loss."""
    sequence_parallel: bool = False
    """Shard the activations between the tensor-parallel regions along the sequence."""

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one replica of the model (tp x pp x cp)."""
        return self.tp * self.pp * self.cp

    def resolve(self, world_size: int) -> "ParallelLayout":
        """The same layout with ``dp`` filled in from the number of ranks.

        Raises:
            LayoutError: The sizes do not multiply to ``world_size``.
        """
        sizes = self._sizes()
        if world_size % self.model_ranks:
            raise LayoutError(
                f"{sizes} needs a multiple of {self.model_ranks} workers, but num_workers={world_size}: "
                f"choose num_workers={-(-world_size // self.model_ranks) * self.model_ranks} or smaller layout sizes"
            )
        dp = world_size // self.model_ranks
        if self.dp and self.dp != dp:
            raise LayoutError(
                f"layout.dp={self.dp} with {sizes} needs {self.dp * self.model_ranks} workers, "
                f"but num_workers={world_size}: leave layout.dp out to have it derived ({dp} here)"
            )
        if (world_size // self.pp) % self.ep:
            raise LayoutError(
                f"layout.ep={self.ep} does not divide the {world_size // self.pp} ranks of a pipeline stage "
                f"({sizes}, dp {dp}): the experts are shared out over tp x cp x dp"
            )
        return self.model_copy(update={"dp": dp})

    def check_model(self, model: ModelSpec) -> None:
        """Check that the layout divides the model.

        Raises:
            LayoutError: One line that names the layout field and the size it does not divide.
        """
        widths = ("num_query_groups", "num_attention_heads", "padded_vocab_size")
        for name in widths if model.moe else (*widths[:2], "ffn_hidden_size", widths[2]):
            _divides("tp", self.tp, name, getattr(model, name))
        if self.sequence_parallel and self.tp == 1:
            raise LayoutError("layout.sequence_parallel needs layout.tp > 1: there is nothing to shard with tp=1")
        if self.virtual_stages > 1 and self.pp == 1:
            raise LayoutError(f"layout.virtual_stages={self.virtual_stages} needs layout.pp > 1")
        self._check_stages(model.num_layers)
        self._check_experts(model)

    def layers_per_stage(self, num_layers: int) -> list[int]:
        """Layers of each pipeline rank.

        Raises:
            LayoutError: The layers cannot be shared out as asked.
        """
        ends = (self.first_stage_layers, self.last_stage_layers)
        if ends == (None, None):
            _divides("pp", self.pp, "num_layers", num_layers)
            return [num_layers // self.pp] * self.pp
        fixed = sum(end or 0 for end in ends)
        between = self.pp - sum(end is not None for end in ends)
        told = " and ".join(
            f"layout.{name}={end}"
            for name, end in zip(("first_stage_layers", "last_stage_layers"), ends, strict=True)
            if end
        )
        if between < 0:
            raise LayoutError(f"{told} needs layout.pp > 1: there is one stage only")
        rest = num_layers - fixed
        if rest < between or (between and rest % between) or (not between and rest):
            raise LayoutError(
                f"{told} leaves {rest} of num_layers={num_layers} for the other {between} of layout.pp={self.pp} "
                "stages, which cannot share them evenly"
            )
        stages = [rest // between] * between if between else []
        return [*([ends[0]] if ends[0] else []), *stages, *([ends[1]] if ends[1] else [])]

    def _check_stages(self, num_layers: int) -> None:
        stages = self.layers_per_stage(num_layers)
        # Megatron can count the embedding and the output projection as layers, or take uneven ends, but not both.
        counted = [end is not None and bool(end % self.virtual_stages) for end in (stages[0], stages[-1])]
        counted = [
            self.first_stage_layers is not None and counted[0],
            self.last_stage_layers is not None and counted[1],
        ]
        whole = [layers + (counted[0] and stage == 0) + (counted[1] and stage == self.pp - 1)
                 for stage, layers in enumerate(stages)]  # fmt: skip
        if any(counted) and len(set(whole)) > 1:
            raise LayoutError(
                f"layout.virtual_stages={self.virtual_stages} takes ends that it divides, or of one layer fewer than "
                f"the other stages; layout.first_stage_layers={self.first_stage_layers} and "
                f"layout.last_stage_layers={self.last_stage_layers} make stages of {stages}"
            )
        for stage, layers in enumerate(whole):
            if layers % self.virtual_stages:
                which = "" if len(set(stages)) == 1 else f" of stage {stage}"
                raise LayoutError(
                    f"layout.virtual_stages={self.virtual_stages} does not divide the {layers} layers{which} that "
                    f"layout.pp={self.pp} makes of num_layers={num_layers}"
                )

    def _check_experts(self, model: ModelSpec) -> None:
        if model.moe is None:
            if self.ep > 1:
                raise LayoutError(f"layout.ep={self.ep} needs a mixture-of-experts model, but this one is dense")
            return
        _divides("ep", self.ep, "moe.num_experts", model.moe.num_experts)
        if self.tp > 1 and not self.sequence_parallel:
            raise LayoutError(
                f"layout.tp={self.tp} of a mixture of experts needs layout.sequence_parallel=true: each "
                "tensor-parallel rank routes its own part of the sequence"
            )
        if model.moe.shared_expert_ffn_hidden_size:
            _divides("tp", self.tp, "moe.shared_expert_ffn_hidden_size", model.moe.shared_expert_ffn_hidden_size)

    def check_batch(self, sequence_length: int, global_batch_size: int, micro_batch_size: int) -> int:
        """Check that the layout divides the sequence and the batch; ``dp`` must be resolved.

        Args:
            sequence_length: Positions per sequence.
            global_batch_size: Sequences per step.
            micro_batch_size: Sequences per forward pass of one rank.

        Returns:
            Micro-batches per rank and step.

        Raises:
            LayoutError: One line that names the layout field and the size it does not divide.
        """
        dp = self.dp or 1
        if self.cp > 1 and sequence_length % (2 * self.cp):
            raise LayoutError(
                f"layout.cp={self.cp} does not fit sequence_length={sequence_length}: each rank takes two chunks, "
                f"so 2*cp={2 * self.cp} must divide it"
            )
        if self.sequence_parallel and (sequence_length // self.cp) % self.tp:
            raise LayoutError(
                f"layout.tp={self.tp} with sequence_parallel does not divide the {sequence_length // self.cp} "
                f"positions each context-parallel rank holds (sequence_length={sequence_length})"
            )
        if global_batch_size % (dp * micro_batch_size):
            raise LayoutError(
                f"layout.dp={dp} x micro_batch_size={micro_batch_size} does not divide "
                f"global_batch_size={global_batch_size}"
            )
        micro_batches = global_batch_size // (dp * micro_batch_size)
        if self.virtual_stages > 1 and micro_batches % self.pp:
            raise LayoutError(
                f"layout.pp={self.pp} does not divide the {micro_batches} micro-batches of each step, which "
                f"layout.virtual_stages={self.virtual_stages} needs (global_batch_size={global_batch_size}, "
                f"dp={dp}, micro_batch_size={micro_batch_size})"
            )
        return micro_batches

    def _sizes(self) -> str:
        return " x ".join(f"layout.{name}={getattr(self, name)}" for name in ("tp", "pp", "cp"))


def _divides(field: str, size: int, name: str, total: int) -> None:
    if total % size:
        fits = ", ".join(str(n) for n in range(1, min(total, 64) + 1) if total % n == 0)
        raise LayoutError(f"layout.{field}={size} does not divide {name}={total} (these do: {fits})")
