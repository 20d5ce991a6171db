"""What the tests of the stages after pretraining share."""

from pathlib import Path

import pytest

from chat.chat_cases import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's directory without a chat template; not to be written to."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")
