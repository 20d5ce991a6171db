"""The configuration of the ``upcycle`` stage."""

from pydantic import Field, model_validator

from tatara.config import operational
from tatara.model.spec import MixtureOfExperts, ModelSpec
from tatara.model.upcycle_settings import UpcycleSettings, check
from tatara.stage import Stage


class UpcycleExperts(MixtureOfExperts):
    """The mixture to make; what the dense model decides may be left out."""

    expert_ffn_hidden_size: int | None = Field(default=None, ge=1)  # type: ignore[assignment]
    """Width of one expert; null means what the dense feed-forward gives it: what the shared expert leaves, divided by
    the granularity."""


class UpcycleConfig(UpcycleSettings):
    """A dense checkpoint becomes one of a mixture of experts, to be trained on."""

    moe: UpcycleExperts = UpcycleExperts()
    """Experts, router and balancing. With ``granular``, ``num_experts`` and ``top_k`` count shards: 8 experts of which
    2 are visited, cut in 4, are 32 and 8."""
    seed: int = Field(default=0, ge=0)
    """Of the router and of what is drawn anew."""
    tolerance: float = Field(default=1e-4, gt=0)
    """Largest difference of any token's first loss, in nats, where theory says that there is none; in float32."""
    proof_tokens: int = Field(default=512, ge=16)
    """Tokens that the losses are compared on: about half random ones, the rest text in the model's own tokenizer."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs of the task that upcycles. Its node must hold both models, and a float32 copy of the larger."""
    timeout: float = operational(7200.0, gt=0)
    """Longest time the task may take, in seconds."""

    @model_validator(mode="after")
    def _trains(self) -> "UpcycleConfig":
        """Refuse what no dense model makes right, before a cluster starts."""
        for name in ("num_experts", "top_k"):
            if getattr(self.moe, name) % self.shards:
                raise ValueError(f"granularity {self.granularity} does not divide moe.{name} {getattr(self.moe, name)}")
        if self.method == "copy" and self.router_std == 0 and self.moe.balancing == "none":
            raise ValueError(
                "copies behind a zero router need balancing: all tokens go to the same experts, whose outputs are "
                "equal, so that the router never learns; raise router_std"
            )
        return self

    def sparse(self, dense: ModelSpec) -> ModelSpec:
        """The architecture that a dense one becomes.

        Raises:
            ConfigError: It cannot, with these settings; one line that names the field.
        """
        moe = self.moe
        width = moe.expert_ffn_hidden_size
        if width is None:
            width = max((dense.ffn_hidden_size - moe.shared_expert_ffn_hidden_size) // self.shards, 1)
        made = dense.model_copy(
            update={"moe": MixtureOfExperts(**moe.dump() | {"expert_ffn_hidden_size": width})},
        )
        check(dense, made, self)
        return made


TANUKI_8X8B = UpcycleConfig(
    method="copy", moe=UpcycleExperts(num_experts=8, top_k=2, balancing="auxiliary", auxiliary_coefficient=0.001)
)
"""From Tanuki-8B to Tanuki-8x8B: experts, top-k and auxiliary loss as in the ``config.json`` of
weblab-GENIAC/Tanuki-8x8B-dpo-v1.0. Its model card says nothing of noise or of the router's start."""

STAGE = Stage(
    name="upcycle",
    kind="checkpoint",
    config=UpcycleConfig,
    inputs={"checkpoint": "checkpoint"},
    run="tatara.train.convert.upcycle_run:run",
    extra="train",
)
