"""The pretraining stage's configuration, and what it refuses before any process starts."""

import json

import pytest

from tatara import config, stage
from tatara.artifact import Draft, Store
from tatara.errors import ConfigError, DataError, LayoutError, TataraError
from tatara.model.spec import ModelSpec
from tatara.train.choice import PretrainModel
from tatara.train.feed.plan import SourceSize
from tatara.train.pretrain import STAGE, PretrainConfig, check_layout, continued, spec_at
from train.tokens_cases import write_tokens


def load(**overrides):
    return config.load(PretrainConfig, {}, overrides)


def tokens_artifact(root):
    attempt = Store(root).begin(Draft(kind="tokens", name="t", version=1, stage="tokenize", fingerprint="0" * 64))
    write_tokens(attempt.path, train=40, validation=4)
    return attempt.commit({}, 1.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layout.tp": "3", "model.num_layers": 4}, "layout.tp=3 does not divide num_query_groups=2"),
        ({"layout.pp": "3", "num_workers": "3", "model.num_layers": 4}, "layout.pp=3 does not divide num_layers=4"),
        ({"layout.tp": "2", "num_workers": "3"}, "needs a multiple of 2 workers, but num_workers=3"),
        ({"global_batch_size": "12"}, "layout.dp=2 x micro_batch_size=8 does not divide global_batch_size=12"),
    ],
)
def test_a_layout_that_can_never_fit_is_refused_when_it_is_read(overrides, message):
    with pytest.raises(LayoutError, match=message):
        load(**overrides)


def test_layout_and_cluster_size_are_not_identity():
    other = {
        "layout.tp": "2", "num_workers": "4", "micro_batch_size": "4", "checkpoint_interval": "7", "max_failures": "1",
        "cpus_per_worker": "1.0",
    }  # fmt: skip
    assert load(**other).identity() == load().identity()
    assert load(seed="3").identity() != load().identity()


def test_the_resolved_configuration_can_be_read_back():
    written = load(**{"layout.tp": "2", "model.hidden_size": "64"})
    assert PretrainConfig.model_validate(json.loads(json.dumps(written.dump()))) == written


def test_phases_and_batches_are_checked_against_the_layout():
    chosen = load(phases=[{"from_step": 0}, {"from_step": 100, "global_batch_size": 20}])
    sources = {"tokens": SourceSize(1000, 64)}
    with pytest.raises(LayoutError, match=r"layout.dp=2 x micro_batch_size=8 does not divide global_batch_size=20"):
        check_layout(chosen, ModelSpec(), chosen.plan(sources))


def test_a_phase_changes_the_rotary_settings_from_its_step_on():
    phases = [{"from_step": 0}, {"from_step": 100, "rope_theta": 5e5, "max_position_embeddings": 8192}]
    plan = load(phases=phases).plan({"tokens": SourceSize(1000, 64)})
    spec = ModelSpec()
    assert spec_at(spec, plan, 99) == spec
    assert spec_at(spec, plan, 100) == spec.model_copy(update={"rope_theta": 5e5, "max_position_embeddings": 8192})


def test_a_run_that_continues_a_checkpoint_takes_its_architecture():
    before = ModelSpec(hidden_size=256, qk_norm="head")
    assert continued(PretrainModel(), before).resolve(4096, 64) == before
    longer = continued(PretrainModel(rope_theta=5e5, max_position_embeddings=65536), before).resolve(4096, 65536)
    assert (longer.rope_theta, longer.max_position_embeddings, longer.hidden_size) == (5e5, 65536, 256)
    with pytest.raises(ConfigError, match=r"model.num_layers=8, but the checkpoint to start from has 4"):
        continued(PretrainModel(num_layers=8), before)
    with pytest.raises(ConfigError, match=r"model.preset .* no meaning with an input checkpoint"):
        continued(PretrainModel(preset="toy-llama"), before)


def test_what_only_the_tokens_tell_is_checked_before_a_cluster_is_asked(tmp_path):
    tokens = tokens_artifact(tmp_path / "root")
    run = STAGE.resolve(STAGE.run)

    def attempt(message, error, **overrides):
        with stage.standalone(STAGE, load(**overrides), inputs={"tokens": tokens}, root=tmp_path / "root") as opened:
            with pytest.raises(error, match=message) as caught:
                run(opened.stage_run.stage.config.model_validate(load(**overrides).dump()), opened.stage_run)
            assert "\n" not in str(caught.value)

    # 2 * cp = 6 does not divide 64.
    attempt("layout.cp=3 does not fit sequence_length=64", LayoutError, **{"layout.cp": "3", "num_workers": "3"})
    attempt("model.vocab_size=100 is smaller", ConfigError, **{"model.vocab_size": "100"})
    binary = tmp_path / "root" / "tokens" / "t@1" / "train.bin"
    binary.write_bytes(binary.read_bytes()[:-2])
    attempt("train.bin is cut short", DataError)
    assert Store(tmp_path / "root").versions("checkpoint", "standalone") == []


def test_a_checkpoint_to_start_from_must_fit_the_tokens(tmp_path):
    root = tmp_path / "root"
    tokens = tokens_artifact(root)
    attempt = Store(root).begin(Draft(kind="checkpoint", name="c", version=1, stage="pretrain", fingerprint="1" * 64))
    (attempt.path / "tokenizer").mkdir(parents=True)
    (attempt.path / "tokenizer" / "tokenizer.json").write_text('{"another": "one"}')
    (attempt.path / "model.json").write_text(ModelSpec(vocab_size=256).model_dump_json())
    (attempt.path / "training.json").write_text('{"step": 0, "tokens": 0}')
    inputs = {"tokens": tokens, "checkpoint": attempt.commit({}, 1.0)}

    def attempted(**overrides):
        chosen = load(**overrides)
        with stage.standalone(STAGE, chosen, inputs=inputs, root=root) as opened:
            with pytest.raises(TataraError) as caught:
                STAGE.resolve(STAGE.run)(chosen, opened.stage_run)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has tokenizer " in attempted()
    assert "but the tokens were made with 44136fa355b3: tokenize with the checkpoint's" in attempted()
    wrong = attempted(**{"model.hidden_size": 64})
    assert wrong == "model.hidden_size=64, but the checkpoint to start from has 128: leave it out"
