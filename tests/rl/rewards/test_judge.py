"""A judge over HTTP: a real server in a thread that answers well, badly, late and not at all."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tatara.rl.record import Prompt
from tatara.rl.rewards.completion import Completion, Failure
from tatara.rl.rewards.config import ScoringConfig, read_rewards
from tatara.rl.rewards.judge import Judge, fill
from tatara.rl.rewards.kinds import JudgeConfig


class Server(ThreadingHTTPServer):
    """Answers as `script` says, by the number of the request; a number is a status, text is a judge's reply."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = lambda number, question: "Score: 7"
        self.requests, self.at_once, self.most = [], 0, 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append((self.path, dict(self.headers), body))
            self.server.at_once += 1
            self.server.most = max(self.server.most, self.server.at_once)
        answer = self.server.script(number, body["messages"][-1]["content"])
        with self.server.lock:
            self.server.at_once -= 1
        if answer == "trickle":
            self.trickle()
            return
        status = answer if isinstance(answer, int) else 200
        reply = {"choices": [{"message": {"content": answer}}]} if status == 200 else {"error": "no\nway"}
        data = json.dumps(reply).encode() if answer != "garbage" else b"<html>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def trickle(self):
        """A byte now and then: no read is ever late, and there is no end."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.close_connection = True
        for _ in range(100):
            try:
                self.wfile.write(b" ")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.1)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(30)


def settings(server, **changes):
    given = {
        "kind": "judge",
        "url": f"http://127.0.0.1:{server.server_address[1]}/v1/",
        "model": "judge-1",
        "template": "Question: {prompt}\nReference: {answer}\nResponse: {response}\n{not known}",
        "backoff": 0.01,
        "retries": 3,
    }
    return given | changes


def judge(server, response="four", **changes):
    messages = ({"role": "user", "content": "2 + 2?"},)
    asked = Judge(JudgeConfig(**settings(server, **changes)))
    try:
        return asked(Completion(Prompt("prompt-7", "s", messages, (), {"answer": 4}), response))
    finally:
        asked.close()


def test_a_judge_is_asked_and_its_score_is_scaled(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    server.script = lambda number, question: "Score: 2, but on reflection\nSCORE: 7.5"
    assert judge(server, api_key_env="JUDGE_KEY", system="Be fair.", extra={"top_p": 0.5}) == 0.75
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "model": "judge-1",
        "messages": [
            {"role": "system", "content": "Be fair."},
            {"role": "user", "content": "Question: 2 + 2?\nReference: 4\nResponse: four\n{not known}"},
        ],
        "temperature": 0.0,
        "max_tokens": 512,
        "top_p": 0.5,
    }


def test_a_response_cannot_name_a_placeholder():
    messages = ({"role": "system", "content": "S"}, {"role": "user", "content": "U"})
    completion = Completion(Prompt("p", "s", messages, (), {"answer": "secret"}), "{answer} {prompt}")
    assert fill("{prompt}|{response}|{answer}", completion) == "system: S\n\nuser: U|{answer} {prompt}|secret"


@pytest.mark.parametrize("trouble", [429, 500, 503], ids=str)
def test_what_passes_is_tried_again(server, trouble):
    server.script = lambda number, question: trouble if number < 3 else "score=10"
    assert judge(server) == 1.0
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("answer", "settings", "requests", "reason"),
    [
        (500, {}, 4, "answered 500: .*no\\\\nway.* \\(after 4 tries\\)"),
        (401, {}, 1, "answered 401: "),
        ("I like it", {}, 1, "^the judge's reply has no score: I like it$"),
        ("Score: 11", {}, 1, "^the judge's score 11 is outside of 0 to 10$"),
        ("Score: high", {"score_pattern": r"Score: (\w+)"}, 1, "^the judge's score 'high' is not a number$"),
        ("garbage", {}, 1, "answered what is no chat completion: JSONDecodeError"),
        ("trickle", {"timeout": 0.3, "retries": 1}, 2, r"ReadTimeout no whole reply within 0.3 s.*\(after 2 tries\)"),
    ],
    ids=["broken", "refused", "silent", "outside", "no number", "garbage", "trickle"],
)
def test_a_judge_without_a_score_is_a_failure(server, answer, settings, requests, reason):
    import re

    server.script = lambda number, question: answer
    found = judge(server, **settings)
    assert isinstance(found, Failure)
    assert re.search(reason, found.reason)
    assert len(server.requests) == requests


def test_nobody_there_is_a_failure(server):
    server.shutdown()
    server.server_close()
    found = judge(server, retries=1)
    assert isinstance(found, Failure)
    assert "ConnectError" in found.reason
    assert found.reason.endswith("(after 2 tries)")


def test_questions_are_asked_at_once_and_no_more_than_allowed(server):
    from tatara.rl.rewards.scorer import Scorer

    together = threading.Barrier(4)

    def script(number, question):
        # Nobody gets an answer before four have asked.
        together.wait(60)
        return f"Score: {len(question.split('Response: ')[1].split()[0])}"

    server.script = script
    scorer = Scorer(read_rewards({"opinion": settings(server, concurrency=4)}), ScoringConfig())
    messages = ({"role": "user", "content": "?"},)
    asked = [Completion(Prompt(str(n), "s", messages, (), {"answer": 1}), "x" * (n % 8)) for n in range(1, 9)]
    assert [verdict.reward for verdict in scorer.score(asked[:7] + asked[:1])] == [
        n / 10 for n in (1, 2, 3, 4, 5, 6, 7, 1)
    ]
    assert server.most == 4
    scorer.close()
