"""The head of a Ray cluster, asked before Ray is: within seconds and in one line, what Ray would say in minutes."""

from __future__ import annotations

import os
import socket
from importlib import metadata
from pathlib import Path

from actors.errors import ActorError

ANSWER_S = 3.0
START = "start one with 'ray start --head', or leave --address out to run on this machine"
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Returns the version of Ray to a caller with the token; gRPC's own health service answers without a token."""


def check_reachable(address: str) -> None:
    """Check that a run on this machine can join a cluster.

    Raises:
        ActorError: nothing answers there; or it is not a Ray cluster, requires another token, or
        has another version; or this machine is not one of its nodes.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address or not 0 < int(port) < 1 << 16:
        raise ActorError(f"address {address}", "is not host:port", "give one such as 10.0.0.1:6379")
    who = f"Ray cluster {address}"
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise ActorError(who, f"cannot be reached ({error.strerror or error})", START) from None
    version, here = _ask_version(address, who), metadata.version("ray")
    if version != here:
        raise ActorError(who, f"has Ray {version}, and this machine {here}", "install the same on every node")
    _check_node(who)


def find_token() -> tuple[str, str] | None:
    """The user's token for clusters, from the first of the places that Ray looks in; and the place.

    Raises:
        ActorError: a file that is named for it cannot be read.
    """
    if text := os.environ.get("RAY_AUTH_TOKEN"):
        return text.strip(), "RAY_AUTH_TOKEN"
    path, own = os.environ.get("RAY_AUTH_TOKEN_PATH"), Path.home() / ".ray" / "auth_token"
    if not path and not own.is_file():
        return None
    try:
        return Path(path or own).read_text(encoding="utf-8").strip(), path or str(own)
    except OSError as error:
        way_out = "have RAY_AUTH_TOKEN_PATH name the file that holds the cluster's"
        raise ActorError(f"token file {path or own}", f"cannot be read ({error.strerror})", way_out) from None


def _ask_version(address: str, who: str) -> str:
    import grpc  # Only those who join a cluster need it, and Ray.
    from ray.core.generated import gcs_service_pb2

    # Ray does the same.
    token = None if os.environ.get("RAY_AUTH_MODE") == "disabled" else find_token()
    given = None if token is None else (("authorization", f"Bearer {token[0]}"),)
    with grpc.insecure_channel(address) as channel:
        try:
            answer = channel.unary_unary(ALIVE)(b"", timeout=ANSWER_S, metadata=given)
        except grpc.RpcError as error:
            raise _refused(who, error.code().name, token) from None  # pyright: ignore[reportAttributeAccessIssue]
    # Its names are made when it is imported.
    return gcs_service_pb2.CheckAliveReply.FromString(answer).ray_version  # pyright: ignore[reportAttributeAccessIssue]


def _refused(who: str, problem: str, token: tuple[str, str] | None) -> ActorError:
    if problem != "UNAUTHENTICATED":
        return ActorError(who, f"is no Ray cluster, though something answers ({problem})", START)
    way_out = "set RAY_AUTH_TOKEN_PATH to the file that holds the cluster's"
    return ActorError(who, "asks for a token" if token is None else f"does not take the token in {token[1]}", way_out)


def _check_node(who: str) -> None:
    """Raise where no part of Ray runs on this machine, for which Ray would wait a minute."""
    # What 'ray.init' itself waits for; there is no public way to it.
    from ray._private.services import find_node_ids

    if not find_node_ids():
        way_out = "run this on one of its nodes, or send it there with 'leworld cluster submit'"
        raise ActorError(who, "has no node on this machine", way_out)
