import pytest


@pytest.fixture(autouse=True)
def isolating() -> None:
    from tatara.rl.sandbox import available

    if reason := available():
        pytest.skip(reason)
