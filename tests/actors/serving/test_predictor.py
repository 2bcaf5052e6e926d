"""Predictions over HTTP are those of the system itself, together or alone; errors are one line."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from actors.errors import ActorError
from actors.serving import http_app
from actors.serving.http_app import ROUTES, PredictionAPI
from actors.serving.http_messages import MOST_SAMPLES, PredictRequest, PredictResponse, parse
from actors.serving.http_server import HTTPServer
from actors.serving.predictor import PredictionCall, PredictionService
from leworld.errors import ConfigError, DataError
from leworld.types import Query
from tests.actors.training.systems import run, small

RULES, PENDULUM = small(), small("world.name=physics", "world.settings={body: pendulum}")


def learner_of(system=RULES):
    torch.manual_seed(0)
    return system.learner()


@pytest.fixture(scope="module")
def answers() -> PredictionService:
    learner = learner_of()
    run(learner)
    return PredictionService(lambda: learner, 0)


def asked(samples: int = 2, seed: int = 0, spec=RULES.world.spec) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    widths = {"current": spec.state_dim, "characteristics": spec.char_dim}
    return {name: random.normal(size=(samples, width)).tolist() for name, width in widths.items()}


def call(service: PredictionService, given: dict[str, Any]) -> PredictionCall:
    """A call as HTTP makes it."""
    return service.prepare(parse(PredictRequest, json.dumps(given).encode()))


def test_an_answer_is_what_the_system_predicts(answers):
    given = asked()
    (found,) = answers.predict([call(answers, given)])
    current, characteristics = (torch.tensor(given[name]) for name in ("current", "characteristics"))
    system = answers._learner.system
    query = Query(current, current, characteristics, torch.zeros(2, system.blm.config.query_dim))
    step = system.predict(query)
    assert found["next_state"] == step.next_state.tolist()
    assert found["mask"] == step.mask.int().tolist()
    assert found["slms"] == [[0, 1, 2]] * 2
    assert [[read["start"] for read in row] for row in found["reads"]] == [
        [start for start, length in zip(*row, strict=True) if length]
        for row in zip(step.reads.start.tolist(), step.reads.length.tolist(), strict=True)
    ]
    assert json.loads(json.dumps(found)) == found


def test_questions_that_are_answered_together_get_their_own_answers(answers):
    questions = [call(answers, asked(samples, seed)) for seed, samples in enumerate((1, 3, 2))]
    together = answers.predict(questions)
    for question, found in zip(questions, together, strict=True):
        (alone,) = answers.predict([question])
        np.testing.assert_allclose(found["next_state"], alone["next_state"], rtol=1e-4, atol=1e-5)
        assert found["reads"] == alone["reads"]


def test_what_was_seen_goes_from_answer_to_question():
    answers = PredictionService(lambda: learner_of(PENDULUM), 0)
    spec = PENDULUM.world.spec
    first, second = asked(1, 0, spec), asked(1, 1, spec)
    first["past"] = asked(1, 2, spec)["current"]
    (one,) = answers.predict([call(answers, first)])
    given = {**second, "past": first["current"], "characteristics": first["characteristics"], "seen": one["seen"]}
    (two,) = answers.predict([call(answers, given)])
    assert np.abs(np.subtract(two["seen"], one["seen"])).max() > 0
    (fresh,) = answers.predict([call(answers, {**given, "seen": None})])
    assert fresh["seen"] != two["seen"]
    both = answers.predict([call(answers, given), call(answers, {**given, "seen": None})])
    np.testing.assert_allclose(both[0]["seen"], two["seen"], rtol=1e-5)
    np.testing.assert_allclose(both[1]["seen"], fresh["seen"], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"current": None}, "current is missing: give current, characteristics, and if you like"),
        ({"color": 1}, "'color' is not known"),
        ({"current": [["a"]]}, "current[0][0] is 'a', not a valid number: give (B, S) states"),
        ({"current": [[True]]}, "current[0][0] is True, not a valid number"),
        ({"current": 1}, "current is 1, not a list"),
        ({"past": "x"}, "past is 'x', not a list: give (B, S) states one step before"),
        ({"current": [[1.0], [1.0, 2.0]]}, "current is not an array of numbers"),
        ({"current": []}, f"current has shape (0,): give 1 to {MOST_SAMPLES} samples"),
        ({"current": [[0.0] * 3]}, "query.current has shape (1, 3)"),
        ({"past": [[0.0] * 3]}, "query.past has shape (1, 3)"),
        ({"characteristics": [[1e30] * RULES.world.spec.char_dim] * 2}, "give numbers within"),
        ({"seen": [[1.0]]}, "seen has shape (1, 1): give what a response said of these episodes (none)"),
    ],
)
def test_what_is_wrong_with_a_question_is_told(answers, change, line):
    with pytest.raises(DataError) as error:
        call(answers, {**asked(), **change})
    assert line in str(error.value)


def test_a_part_that_dies_is_replaced_and_asked_again_so_often():
    made = []

    def make():
        learner = learner_of()
        if len(made) < 2:
            dead = ActorError(f"SLM actor {len(made)}", "died", "look")

            def fail(*_, **__):
                raise dead

            learner.system.fleet.propose = fail
        made.append(learner)
        return learner

    answers = PredictionService(make, 2)
    (found,) = answers.predict([call(answers, asked())])
    assert len(found["next_state"]) == 2
    assert answers.events == [f"SLM actor {n} died; goes on from the checkpoint when all are there" for n in (0, 1)]
    made.clear()
    fragile = PredictionService(make, 1)
    with pytest.raises(ActorError, match="SLM actor 1 died: look"):
        fragile.predict([call(fragile, asked())])


@pytest.fixture
def server(answers) -> Iterator[HTTPServer]:
    found = HTTPServer(PredictionAPI(answers, None), "127.0.0.1", 0)
    yield found
    found.stop()


def send(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/{path}", data, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_over_http_it_is_the_same(answers, server):
    status, found = send(server.url, "predict", asked())
    assert (status, found) == (200, answers.predict([call(answers, asked())])[0])
    status, about = send(server.url, "about")
    assert about["widths"]["state"] == RULES.world.spec.state_dim
    assert send(server.url, "health") == (200, {"status": "ok", "waiting": 0, "events": []})


def test_many_who_ask_at_once_get_their_own_answers(answers, server):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: send(server.url, "predict", asked(1, seed)), range(40)))
    for seed, (status, answer) in enumerate(found):
        assert status == 200
        (right,) = answers.predict([call(answers, asked(1, seed))])
        np.testing.assert_allclose(answer["next_state"], right["next_state"], rtol=1e-4, atol=1e-5)


def test_what_is_written_is_read_and_known_to_the_next_prediction(answers, server):
    before = send(server.url, "predict", asked())[1]
    read = before["reads"][0][0]
    _, old = send(server.url, "read", {"start": [read["start"]], "length": [read["length"]]})
    words = [[word ^ 0xFFFFFFFF for word in old["words"][0]]]
    status, receipt = send(server.url, "write", {"start": [read["start"]], "words": words})
    assert status == 200
    assert receipt["sequence"] > 0
    assert send(server.url, "read", {"start": [read["start"]], "length": [read["length"]]})[1] == {"words": words}
    assert send(server.url, "predict", asked())[1]["next_state"][0] != before["next_state"][0]
    send(server.url, "write", {"start": [read["start"]], "words": old["words"]})
    assert send(server.url, "predict", asked())[1] == before


@pytest.mark.parametrize(
    ("path", "body", "status", "line"),
    [
        (
            "predict",
            b"{",
            400,
            "the request is not JSON (EOF while parsing an object at line 1",
        ),
        ("predict", [1], 400, "the request is a list: send a JSON object"),
        ("predict", {}, 400, "current is missing"),
        ("read", {"start": [0]}, 400, "length is missing: give start, length"),
        ("read", {"start": [0.5], "length": [1]}, 400, "start[0] is 0.5, not a valid integer: give (R,) addresses"),
        ("read", {"start": [0], "length": [1 << 40]}, 400, "read up to 1048576 at once"),
        ("read", {"start": [0], "length": [-1]}, 400, "range 0"),
        (
            "write",
            {"start": [0], "words": [[-1]]},
            400,
            "words[0][0] is -1, not greater than or equal to 0: give (R, W) words in",
        ),
        ("write", {"start": [0], "words": [[1 << 32]]}, 400, "words[0][0] is 4294967296, not less than 4294967296"),
        ("write", {"start": [0, 1], "words": [[1]]}, 400, "give 2 blocks of one length"),
        ("write", {"start": [0, 1], "words": [[1], [1, 2]]}, 400, "give 2 blocks of one length"),
        ("write", {"start": [0], "words": [[]]}, 400, "give 1 blocks of one length"),
        ("write", {"start": [], "words": []}, 400, "start is [], but should have at least 1 item"),
        ("write", {"start": [1 << 70], "words": [[1]]}, 400, "start has a number outside [-2^63, 2^63)"),
        ("write", {"start": [1 << 40], "words": [[1]]}, 400, "outside the memory"),
        ("nothing", {}, 404, "404: Not Found"),
        ("predict", None, 405, "405: Method Not Allowed"),
    ],
)
def test_what_is_wrong_with_a_request_is_told(server, path, body, status, line):
    found, content = send(server.url, path, body)
    assert found == status
    assert line in content["error"]


def test_who_brings_no_token_learns_nothing(answers):
    server = HTTPServer(PredictionAPI(answers, {"s3cret": "ada"}), "127.0.0.1", 0)
    try:
        for text in (None, "Bearer guess", "s3cret", "Bearer \xff", "Basic s3cret"):
            headers = {} if text is None else {"Authorization": text}
            for path, body in (("predict", asked()), ("about", None), ("openapi.json", None), ("nothing", None)):
                status, content = send(server.url, path, body, **headers)
                assert status == 401
                assert content["error"] == "unknown token: send 'Authorization: Bearer TOKEN'"
        assert send(server.url, "predict", asked(), Authorization="Bearer s3cret")[0] == 200
        assert send(server.url, "health")[0] == 200
    finally:
        server.stop()


def test_too_many_questions_are_refused_and_the_others_answered(monkeypatch):
    monkeypatch.setattr(http_app, "MOST_WAITING", 2)
    slow = PredictionService(learner_of, 0)
    predict = slow.predict
    slow.predict = lambda calls: (time.sleep(0.5), predict(calls))[1]  # type: ignore[method-assign]
    server = HTTPServer(PredictionAPI(slow, None), "127.0.0.1", 0)
    try:
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda _: send(server.url, "predict", asked()), range(12)))
    finally:
        server.stop()
    refused = [content["error"] for status, content in found if status == 503]
    assert refused
    assert set(refused) == {"2 predictions wait already: try again later"}
    assert {status for status, _ in found} == {200, 503}


def test_an_address_that_is_taken_is_told(server):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} cannot be bound \(Address already in use\)"):
        HTTPServer(PredictionAPI(PredictionService(learner_of, 0), None), "127.0.0.1", port)


def references(part: Any) -> Iterator[str]:
    """Every $ref of a document."""
    if isinstance(part, dict):
        yield from ([part["$ref"]] if "$ref" in part else [])
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references(value)


def test_the_interface_is_described(server):
    status, found = send(server.url, "openapi.json")
    assert status == 200
    assert found["openapi"].startswith("3.1")
    assert {path: set(methods) for path, methods in found["paths"].items()} == {
        route.path: {route.method.lower()} for route in ROUTES
    }
    schemas = found["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in references(found)} <= set(schemas)
    assert schemas["PredictRequest"]["required"] == ["current", "characteristics"]
    assert schemas["PredictRequest"]["additionalProperties"] is False
    assert set(schemas["PredictResponse"]["properties"]) == set(PredictResponse.model_fields)
    assert found["paths"]["/write"]["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/WriteRequest"
    }


def test_every_response_has_the_fields_that_are_described(server):
    for route in ROUTES:
        body = {"/predict": asked(), "/read": {"start": [0], "length": [2]}, "/write": {"start": [0], "words": [[0]]}}
        status, found = send(server.url, route.path[1:], body.get(route.path))
        assert status == 200
        assert set(found) == set(route.response.model_fields)
