"""What a user reads of a failure that Ray wrapped."""

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError

from tatara.errors import DataError, TrainingError, own_error
from tatara.train.failures import StopOnOwnErrors, as_training_error


def test_an_error_of_ours_comes_out_as_it_went_in():
    own = DataError("train.bin is cut short")
    for wrapped in (
        WorkerGroupError("a long traceback", {0: RuntimeError("Connection closed by peer"), 1: own}),
        ControllerError(own),
        ControllerError(ControllerError(own)),
    ):
        assert own_error(wrapped) is own
        assert as_training_error(wrapped, 2) is own


def test_the_process_that_died_is_named_and_not_the_ranks_that_waited_for_it():
    error = WorkerGroupError("x", {0: RuntimeError("gloo\nConnection closed by peer"), 1: ActorDiedError()})
    told = as_training_error(error, 3)
    assert isinstance(told, TrainingError)
    assert str(told).startswith("training failed after 3 restarts: worker 1 failed with ActorDiedError: ")
    assert str(told).endswith("run it again to continue from the last checkpoint")
    assert "\n" not in str(told)


def test_any_other_error_is_one_line_too():
    told = str(as_training_error(ControllerError(ValueError("first\n\n  last")), 0))
    assert told == "training failed: ValueError: last; run it again to continue from the last checkpoint"


def test_only_our_own_errors_end_a_run_at_once():
    callback = StopOnOwnErrors()
    callback.after_exception(None, {0: RuntimeError("a collective failed")})
    with pytest.raises(DataError, match="cut short"):
        callback.after_exception(None, {0: RuntimeError("a collective failed"), 1: DataError("cut short")})
