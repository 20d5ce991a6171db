"""vLLM's OpenAI application on an engine that is already running, with every error in OpenAI's shape."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi import HTTPException as RouteHTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tatara.engine.engine import Engine
from tatara.serve.batching import BatchedStream
from tatara.serve.disconnect import DisconnectOnCancel

MAX_PROBLEMS = 5


async def openai_app(engine: Engine) -> FastAPI:
    """The application with every route vLLM has for the engine's model.

    The calls are those of ``vllm.entrypoints.launchers.api_server.entry.build_and_serve``, up to its opening a socket.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    client, arguments = engine.client, engine.arguments
    tasks = await client.get_supported_tasks()
    app = build_app(arguments, supported_tasks=tasks, model_config=client.model_config)
    await init_app_state(client, app.state, arguments, supported_tasks=tasks)
    # vLLM tells its own HTTP server to exit when the engine is dead; here the replica's health check sees it instead.
    app.state.server = SimpleNamespace(should_exit=False)
    app.exception_handlers[RequestValidationError] = invalid_request
    # vLLM covers what its routes raise; an unknown path or method is raised by Starlette, above them.
    app.exception_handlers[HTTPException] = app.exception_handlers[RouteHTTPException] = refused_request
    # vLLM has built the stack already, with its own handlers inside; it is built again at the first request.
    app.middleware_stack = None
    app.add_middleware(BatchedStream)
    app.add_middleware(DisconnectOnCancel)
    return app


async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
    """400 with the parameters that are wrong and why (vLLM's own answer is a dump of pydantic's error list)."""
    # vLLM raises the same error for a wrong content type, with bare strings in place of pydantic's problems.
    found = [{"type": "refused", "loc": (), "msg": item} if isinstance(item, str) else item for item in error.errors()]
    problems = _by_parameter(found)
    message = "; ".join(_describe(problem) for problem in problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        message += f"; and {len(problems) - MAX_PROBLEMS} more"
    parameter = _parameter(problems[0]) if problems else None
    return _error(HTTPStatus.BAD_REQUEST, message or "the request is not valid", parameter)


async def refused_request(request: Request, error: HTTPException) -> JSONResponse:
    """An HTTP error raised by the framework, such as an unknown path."""
    detail = str(error.detail)
    if error.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        detail = f"{detail}: {request.method} {request.url.path}"
    return _error(HTTPStatus(error.status_code), detail, None, error.headers)


def _error(
    status: HTTPStatus, message: str, parameter: str | None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    kind = "".join(word.capitalize() for word in status.phrase.split())
    kind = kind if kind.endswith("Error") else f"{kind}Error"
    body = {"message": message, "type": kind, "param": parameter, "code": status.value}
    return JSONResponse({"error": body}, status_code=status, headers=headers)


def _describe(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        reason = str(problem.get("ctx", {}).get("error", problem["msg"]))
        return f"the body is not valid JSON: {reason} at character {problem['loc'][-1]}"
    reason = problem["msg"].removeprefix("Value error, ")
    parameter = _parameter(problem)
    if parameter is None and problem["type"] == "missing":
        return "the body is empty"
    return f"{parameter or 'the body'}: {reason[:1].lower()}{reason[1:]}"


def _parameter(problem: Mapping[str, Any]) -> str | None:
    """The parameter a problem is about: the first part of its place that a client would know."""
    if problem["type"] == "json_invalid":
        return None
    # Around the parameter's own name pydantic puts where it looked ("body") and how ("function-wrap[...]").
    names = [part for part in problem["loc"] if isinstance(part, str) and part.isidentifier() and part != "body"]
    return names[0] if names else None


def _by_parameter(problems: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first problem of each parameter: a parameter of several types brings one for every type."""
    seen: dict[str | None, Mapping[str, Any]] = {}
    for problem in problems:
        seen.setdefault(_parameter(problem), problem)
    return list(seen.values())
