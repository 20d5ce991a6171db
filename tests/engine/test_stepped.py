"""The stepped engine in a process of its own: an engine's environment must be there before torch is imported."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from engine import stepped_cases
from tatara.engine.environment import engine_environment

# In this order: the last one leaves the engine unusable.
CASES = [
    stepped_cases.sampled_tokens_carry_the_logprobs_of_hugging_face,
    stepped_cases.stop_tokens_are_exactly_those_asked_for_and_part_of_the_answer,
    stepped_cases.a_seed_repeats_a_continuation,
    stepped_cases.after_every_update_probes_and_answers_are_those_of_the_new_weights,
    stepped_cases.requests_in_flight_go_on_from_their_cache_or_are_computed_again,
    stepped_cases.what_ends_while_a_probe_is_computed_is_counted_until_it_is_returned,
    stepped_cases.an_aborted_request_leaves_the_others_alone,
    stepped_cases.a_sleep_loses_nothing,
    stepped_cases.what_cannot_be_run_is_refused_with_its_name,
    stepped_cases.an_engine_in_eight_bits_quantises_what_it_is_sent,
    stepped_cases.a_prompt_that_fills_the_context_is_named_by_the_worker,
    stepped_cases.an_update_that_does_not_account_for_every_tensor_ends_the_engine,
]


@pytest.fixture(scope="module")
def in_engine_process(tiny_llama: Path) -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Calls a function in the process that has the engine; what it raises is raised here."""
    before = dict(os.environ)
    os.environ.update(engine_environment(cuda=False))
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    try:
        pool.submit(os.getpid).result(timeout=300)
    finally:
        os.environ.clear()
        os.environ.update(before)
    with pool:
        yield lambda case: pool.submit(case, str(tiny_llama)).result(timeout=300)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_stepped_engine(in_engine_process: Callable, case: Callable[[str], None]) -> None:
    in_engine_process(case)
