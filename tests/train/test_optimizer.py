"""What the optimizer's settings mean for each parameter."""

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from tatara.errors import ConfigError
from tatara.train.optimizer import AdamSettings, ParameterGroup, parameter_groups, weight_decay

LAYER = [
    "input_layernorm.weight",
    "self_attention.linear_qkv.weight",
    "self_attention.q_layernorm.weight",
    "mlp.linear_fc1.weight",
    "mlp.linear_fc1.bias",
]
NAMES = [
    "embedding.word_embeddings.weight",
    *(f"decoder.layers.{number}.{name}" for number in range(12) for name in LAYER),
    "decoder.final_layernorm.weight",
    "output_layer.weight",
]


def by_name(settings):
    groups = parameter_groups(NAMES, settings)
    found = {name: group for group in groups for name in group.names}
    assert sorted(name for group in groups for name in group.names) == sorted(NAMES)
    return found


def test_norms_and_biases_have_no_weight_decay_unless_said_otherwise():
    found = by_name(AdamSettings())
    plain = {name for name in NAMES if not found[name].weight_decay}
    assert plain == {name for name in NAMES if "norm" in name or name.endswith("bias")}
    assert len(parameter_groups(NAMES, AdamSettings())) == 2
    found = by_name(AdamSettings(no_decay=("*norm.weight", "embedding.*")))
    assert not found[NAMES[0]].weight_decay
    assert found["decoder.layers.0.mlp.linear_fc1.bias"].weight_decay
    assert all(group.weight_decay for group in by_name(AdamSettings(no_decay=())).values())


def test_multipliers_that_match_multiply_in_any_order():
    rates = {"decoder.layers.1.*": 0.5, "*.mlp.*": 0.1, "output_layer.weight": 3.0}
    for multipliers in (rates, dict(reversed(rates.items()))):
        found = by_name(AdamSettings(learning_rate_multipliers=multipliers))
        assert found["decoder.layers.1.mlp.linear_fc1.weight"].multiplier == 0.05
        assert found["decoder.layers.1.self_attention.linear_qkv.weight"].multiplier == 0.5
        # A shell's pattern: layer 11 is not layer 1.
        assert found["decoder.layers.11.self_attention.linear_qkv.weight"].multiplier == 1.0
        assert found["output_layer.weight"].multiplier == 3.0


def test_frozen_parameters_are_one_group_whatever_else_matches():
    settings = AdamSettings(freeze=("embedding.*", "decoder.layers.[0-3].*"), learning_rate_multipliers={"*": 2.0})
    (frozen,) = [group for group in parameter_groups(NAMES, settings) if group.frozen]
    assert frozen == ParameterGroup(tuple(NAMES[: 1 + 4 * len(LAYER)]), True, False, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ("embeding.word_embeddings.weight",)}, "optimizer.freeze: no parameter is called embeding"),
        ({"learning_rate_multipliers": {"*.mlpp.*": 2.0}}, "optimizer.learning_rate_multipliers: no parameter"),
        ({"no_decay": ("*.router.weight",)}, "optimizer.no_decay: no parameter"),
        ({"freeze": ("*",)}, "nothing is left to train"),
    ],
)
def test_patterns_that_do_nothing_or_too_much_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parameter_groups(NAMES, AdamSettings(**settings))
    assert "\n" not in str(caught.value)


def test_settings_that_contradict_each_other_are_refused():
    for given in ({"weight_decay_end": 0.0}, {"weight_decay_schedule": "cosine"}):
        with pytest.raises(ValidationError, match="belong together"):
            AdamSettings(**given)
    with pytest.raises(ValidationError, match="freeze the pattern"):
        AdamSettings(learning_rate_multipliers={"*": 0.0})


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_weight_decay_goes_as_megatrons_does(shape):
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    settings = AdamSettings(weight_decay=0.1, weight_decay_end=0.4, weight_decay_schedule=shape)
    model = SimpleNamespace(param_groups=[])
    reference = OptimizerParamScheduler(model, 0.0, 1.0, 0.1, 0, 1, "constant", 0.1, 0.4, 50, shape)
    for step in range(51):
        reference.num_steps = step
        assert weight_decay(settings, step, 51) == pytest.approx(reference.get_wd({}))
    assert weight_decay(settings, 1000, 51) == 0.4
    assert weight_decay(AdamSettings(), 7, 51) == 0.1
