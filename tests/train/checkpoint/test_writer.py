"""Checkpoints of a real engine: exact in the same layout, written while training goes on."""

import pytest

from model.ranks import run_ranks
from tatara.train.checkpoint import directories as checkpoint
from train import engine_cases
from train.tokens_cases import write_tokens

STEPS, EVERY = 9, 2


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("checkpoints") / "tokens"))


@pytest.fixture(scope="module")
def saved(tokens, tmp_path_factory):
    root = str(tmp_path_factory.mktemp("saved"))
    losses, written = run_ranks(2, engine_cases.train_and_save, tokens, {}, root, STEPS, EVERY)[0]
    return root, losses, written


def test_training_goes_on_undisturbed_by_checkpoints(tokens, saved):
    _, losses, written = saved
    without = run_ranks(2, engine_cases.train, tokens, {}, STEPS)[0][0]
    assert losses == without
    assert [each.step for each in written] == [2, 4, 6, 8]
    assert all(0 < each.blocked_seconds <= each.seconds for each in written)


def test_the_same_layout_continues_bit_for_bit(tokens, saved):
    root, losses, _ = saved
    for step, before, after in run_ranks(2, engine_cases.load_and_train, tokens, {}, root, STEPS):
        assert step == 8
        assert before == [loss for loss, _, _ in losses[:8]]
        assert after == losses[8:]


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_no_checkpoint(tokens, tmp_path):
    message = run_ranks(1, engine_cases.save_to_a_full_disk, tokens, str(tmp_path))[0]
    assert message.startswith(f"StorageError: cannot write a checkpoint to {tmp_path}: rank 0 could not write")
    assert "is the disk full?" in message
    assert "\n" not in message
    assert checkpoint.newest(tmp_path, print) is None


@pytest.mark.slow
def test_from_a_sharded_layout_to_one_rank(tokens, tmp_path):
    layout = {"tp": 2, "pp": 2, "virtual_stages": 2}
    losses, _ = run_ranks(4, engine_cases.train_and_save, tokens, layout, str(tmp_path), STEPS, 4)[0]
    step, _, after = run_ranks(1, engine_cases.load_and_train, tokens, {}, str(tmp_path), STEPS)[0]
    assert step == 8
    assert after[0][0] == pytest.approx(losses[8][0], rel=1e-5)
