"""Token authentication: anyone who can reach an unprotected Ray cluster can run code on it.

Ray reads ``RAY_AUTH_MODE`` once per process, and a token from ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or
``~/.ray/auth_token``. It turns tokens on by itself for a cluster that ``ray.init`` starts, and for ``ray start`` where
a token file exists, but never for an explicit address; what follows makes the three agree.
"""

import os
import secrets
from pathlib import Path

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


def local_settings(directory: Path) -> dict[str, str | None]:
    """Settings for a private cluster: a token of its own, in a file that only this user can read.

    Args:
        directory: Where the file goes; removed together with the cluster.
    """
    if os.environ.get(MODE, "token").lower() != "token":
        return {}
    path = directory / "token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return {MODE: "token", TOKEN_PATH: str(path), TOKEN: None}


def attach_settings() -> dict[str, str | None]:
    """Settings for attaching to a cluster: send a token if there is one (a cluster without tokens ignores it)."""
    if MODE in os.environ or not _has_token():
        return {}
    return {MODE: "token"}


def reload() -> None:
    """Make this process's Ray read the settings again."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def refusal(address: str) -> str:
    """The line for a cluster that does not accept this process's token."""
    if _has_token():
        return f"the cluster at {address} refuses the token: set {TOKEN_PATH} to a file with the cluster's own"
    return f"the cluster at {address} asks for a token: set {MODE}=token and {TOKEN_PATH} to a file with it"


def _has_token() -> bool:
    if os.environ.get(TOKEN):
        return True
    path = os.environ.get(TOKEN_PATH)
    return (Path(path) if path else Path.home() / ".ray" / "auth_token").is_file()
