"""What is found, what is passed over, and what is said of it."""

import os
import re

import pytest

from model.ranks import run_ranks
from train.checkpoint import checkpoint_cases as cases
from train.tokens_cases import write_tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("loading") / "tokens"))


def test_a_damaged_newest_is_passed_over_with_one_line_and_all_ranks_agree(tokens, tmp_path):
    damages = {
        "bit": "the content of model/__0_0.distcp has changed since it was written",
        "truncated": "model/__0_0.distcp has .* bytes, its manifest.json says",
        "missing": "model/__0_0.distcp is missing",
        "no index": "model/.metadata is missing",
        "manifest": "its manifest.json is unreadable",
    }
    results = run_ranks(2, cases.damage_and_find, tokens, str(tmp_path), list(damages))
    for outcomes, whole in results:
        assert [step for step, _ in outcomes] == [1] * len(damages)
        assert whole == 2
    for (_, said), expected in zip(results[0][0], damages.values(), strict=True):
        assert len(said) == 1
        assert re.fullmatch(f"checkpoint step-00000002 is not usable, looking at the one before: {expected}.*", said[0])
    assert all(said == [] for _, said in results[1][0])


def test_what_does_not_fit_is_one_line_that_names_both(tokens, tmp_path):
    said = run_ranks(1, cases.refused, tokens, str(tmp_path))[0]
    at = f"{tmp_path}/step-00000001"
    assert said == [
        f"ArtifactError: {at} is of another architecture: its hidden_size is 64, this model's is 32",
        f"ArtifactError: {at}/model has embedding.word_embeddings.weight of shape [256, 64], but this model has "
        "[256, 32]",
        f"ArtifactError: {at} was trained with tokenizer aaaa, but the tokens were made with bbbb",
        f"ArtifactError: {at} is no checkpoint of this program: it has no optimizer.json",
        f"ArtifactError: {at}/model is not a distributed checkpoint: it has no .metadata",
    ]


def test_a_full_disk_is_told_and_training_goes_on(tokens, tmp_path):
    results = run_ranks(2, cases.go_on_with_a_full_disk, tokens, str(tmp_path))
    for losses, kinds, reason, left in results:
        assert losses == results[0][0]
        assert len(losses) == 4
        assert kinds == [None, ("Written", 1), ("Failed", 2), None, ("Written", 3)]
        assert reason.startswith(
            f"cannot write a checkpoint to {tmp_path}: rank 1 could not write its part, is the disk"
        )
        assert "\n" not in reason
        assert left == ["step-00000001", "step-00000003"]


def test_where_nothing_can_be_written_only_the_end_of_the_run_fails(tokens, tmp_path):
    for said in run_ranks(2, cases.save_below_a_file, tokens, str(tmp_path)):
        assert said[0].startswith(f"cannot write a checkpoint to {tmp_path}/file/checkpoints: ")
        assert said[1] == f"StorageError: {said[0]}"


def test_an_object_store_keeps_them_and_a_spoilt_one_is_passed_over(tokens, tmp_path, s3_bucket):
    url = f"{s3_bucket}/{tmp_path.name}/checkpoints"
    # The processes that ranks are forked from were started before the server.
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment["TATARA_CACHE"] = str(tmp_path)
    results = run_ranks(2, cases.save_and_find_remotely, tokens, url, environment)
    for found, kept, before, _, losses, resumed, left in results:
        assert kept == ["step-00000002", "step-00000003", "step-00000004"]
        assert (found, before) == (4, 3)
        assert resumed == pytest.approx(losses, rel=1e-5)
        assert left == ["step-00000002", "step-00000003"]
    unfinished, spoilt = results[0][3]
    assert unfinished.startswith(
        "checkpoint step-00000009 is not usable, looking at the one before: it has no manifest"
    )
    assert "model/__1_0.distcp has changed since it was written" in spoilt


def test_types_of_weights_may_differ(tokens, tmp_path):
    for losses, resumed, same, loss in run_ranks(2, cases.between_types, tokens, str(tmp_path)):
        assert resumed == losses
        assert same
        assert loss == pytest.approx(losses[0], rel=1e-2)


def test_megatron_reads_ours_and_we_read_megatrons(tokens, tmp_path):
    for expected, ours, theirs, said in run_ranks(2, cases.beside_megatron, tokens, str(tmp_path)):
        assert ours == pytest.approx(expected, rel=1e-6)
        assert theirs == pytest.approx(expected, rel=1e-6)
        assert said == f"{tmp_path}/megatron holds no optimizer state: reset the optimizer"
