"""The pretraining stage's configuration, and what it refuses before any process starts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara import config, stage
from tatara.artifact import Draft, Store
from tatara.errors import ConfigError, DataError, LayoutError
from tatara.train.layout import ParallelLayout
from tatara.train.pretrain import STAGE, PretrainConfig, PretrainModel, validation_rounds
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
        ({"layout.tp": "3"}, "layout.tp=3 does not divide num_query_groups=2"),
        ({"layout.pp": "3", "num_workers": "3"}, "layout.pp=3 does not divide num_layers=4"),
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


def test_the_tokens_decide_the_vocabulary():
    assert PretrainModel().resolve(5000, 64).vocab_size == 5000
    assert PretrainModel(vocab_size=6000).resolve(5000, 64).vocab_size == 6000
    with pytest.raises(ConfigError, match=r"model.vocab_size=100 is smaller than the tokenizer's 5000"):
        PretrainModel(vocab_size=100).resolve(5000, 64)
    with pytest.raises(ConfigError, match="max_position_embeddings=32 is smaller than the sequence_length=64"):
        PretrainModel(max_position_embeddings=32).resolve(5000, 64)


@given(
    wanted=st.integers(0, 60), there=st.integers(1, 60), dp=st.integers(1, 4), pp=st.integers(1, 3),
    virtual=st.integers(1, 2), micro=st.integers(1, 8),
)  # fmt: skip
def test_validation_covers_each_sequence_once_with_equal_shares(wanted, there, dp, pp, virtual, micro):
    layout = ParallelLayout(dp=dp, pp=pp, virtual_stages=virtual)
    rounds = validation_rounds(wanted, there, layout, micro)
    bins = [each for bins in rounds for each in bins if each >= 0]
    assert bins == list(range(min(wanted, there)))
    assert all(len(bins) == micro for bins in rounds)
    shares = {len(rounds[rank::dp]) for rank in range(dp)}
    assert len(shares) == 1
    assert virtual == 1 or shares.pop() % pp == 0


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
