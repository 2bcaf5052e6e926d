"""The head of a cluster, as a run that would join it finds it: with a stand-in that answers as Ray's does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from ray.core.generated.gcs_service_pb2 import CheckAliveReply

from actors.errors import ActorError
from cluster.raylink import preflight as ray_head
from cluster.raylink.preflight import check_reachable, find_token


class Head(grpc.GenericRpcHandler):
    """PredictionService whoever has the token."""

    def __init__(self) -> None:
        self.token, self.version, self.method = "right", ray.__version__, ray_head.ALIVE

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != self.method:
            return None
        given = dict(handler_call_details.invocation_metadata).get("authorization")
        return grpc.unary_unary_rpc_method_handler(lambda _, context: self.answer(given, context))

    def answer(self, given: str | None, context: Any) -> bytes:
        if self.token and given != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        return CheckAliveReply(ray_version=self.version).SerializeToString()


@pytest.fixture(autouse=True)
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Head, str]]:
    monkeypatch.setattr("ray._private.services.find_node_ids", lambda: {"1"})
    with ThreadPoolExecutor(2) as pool:
        handler, server = Head(), grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield handler, f"127.0.0.1:{port}"
        server.stop(None).wait()


def complaint(address: str) -> str:
    with pytest.raises(ActorError) as refused:
        check_reachable(address)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_token_has_to_be_the_clusters(head, monkeypatch):
    handler, address = head
    assert f"Ray cluster {address} asks for a token" in complaint(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    assert "does not take the token in RAY_AUTH_TOKEN: set RAY_AUTH_TOKEN_PATH" in complaint(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    check_reachable(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "asks for a token" in complaint(address)
    handler.token = ""
    check_reachable(address)


def test_the_version_has_to_be_the_clusters(head):
    handler, address = head
    handler.token, handler.version = "", "2.59.0"
    assert f"has Ray 2.59.0, and this machine {ray.__version__}: install the same on every node" in complaint(address)


def test_a_machine_that_is_no_node_cannot_join(head, monkeypatch):
    handler, address = head
    handler.token = ""
    monkeypatch.setattr("ray._private.services.find_node_ids", set)
    assert "has no node on this machine: run this on one of its nodes" in complaint(address)


def test_another_service_is_no_cluster(head):
    handler, address = head
    handler.method = "/other/Method"
    assert "is no Ray cluster, though something answers (UNIMPLEMENTED)" in complaint(address)


def test_a_token_is_found_where_ray_looks(tmp_path: Path, monkeypatch):
    assert find_token() is None
    own = tmp_path / ".ray" / "auth_token"
    own.parent.mkdir()
    own.write_text("a\n")
    assert find_token() == ("a", str(own))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    with pytest.raises(ActorError, match="gone cannot be read \\(No such file or directory\\)"):
        find_token()
    (tmp_path / "gone").write_text("b")
    assert find_token() == ("b", str(tmp_path / "gone"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "c")
    assert find_token() == ("c", "RAY_AUTH_TOKEN")
