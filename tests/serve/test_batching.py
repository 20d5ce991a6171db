import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from tatara.serve.batching import BatchedStream

SCOPE: Scope = {"type": "http"}


def sent_for(chunks: Sequence[tuple[float, bytes]], seconds: float, fail: bool = False) -> list[Message]:
    """Messages that leave for a stream of chunks, each after a pause in seconds."""

    async def application(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for pause, body in chunks:
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        if fail:
            raise LookupError
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def receive() -> Message:
        raise AssertionError("not called")

    async def run() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        if fail:
            with pytest.raises(LookupError):
                await BatchedStream(application, seconds)(SCOPE, receive, send)
        else:
            await BatchedStream(application, seconds)(SCOPE, receive, send)
        assert len(asyncio.all_tasks()) == 1
        return sent

    return asyncio.run(run())


def test_a_fast_stream_keeps_its_bytes_and_its_first_chunk_goes_at_once() -> None:
    chunks = [(0.0, b"%d," % number) for number in range(200)]
    start, first, *rest = sent_for(chunks, seconds=0.01)
    assert start["type"] == "http.response.start"
    assert first["body"] == b"0,"
    assert b"".join(message["body"] for message in [first, *rest]) == b"".join(body for _, body in chunks)
    assert len(rest) < 100
    assert [message["more_body"] for message in rest] == [True] * (len(rest) - 1) + [False]


def test_a_slow_stream_is_not_held_back() -> None:
    sent = sent_for([(0.03, b"a"), (0.03, b"b"), (0.03, b"c")], seconds=0.01)
    assert [message.get("body") for message in sent[1:]] == [b"a", b"b", b"c", b""]


def test_what_waits_is_sent_by_the_clock_when_nothing_follows() -> None:
    sent = sent_for([(0.0, b"a"), (0.0, b"b"), (0.2, b"c")], seconds=0.02)
    assert [message.get("body") for message in sent[1:]] == [b"a", b"b", b"c", b""]


def test_a_stream_that_fails_leaves_no_timer() -> None:
    sent = sent_for([(0.0, b"a"), (0.0, b"b")], seconds=10.0, fail=True)
    assert [message.get("body") for message in sent[1:]] == [b"a"]
