"""``leworld serve``: the system of a training state checkpoint over HTTP, until it is ended."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.training.learner_process import LearnerState
from cluster.config.run_config import RunConfig
from cluster.memory.serve import read_tokens
from cluster.run.checkpoint import load_checkpoint
from cluster.run.commands import change_on_the_way, checkpoint_of, started
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import Runtime, make_learner
from leworld.errors import ConfigError

LOOK_S = 0.5
Outcome = dict[str, Any]
Events = Callable[[], list[str]]
"""What happened since it was last asked."""


@dataclass(frozen=True)
class ServeOptions:
    """Where to answer: ``gateways`` processes bind ``host`` and ``port``; ``tokens`` is a file, see ``read_tokens``."""

    host: str
    port: int
    gateways: int
    tokens: Path | None


def serve_run(
    path: Path, checkpoint: Path | None, changes: Sequence[str], options: ServeOptions, console: Console,
    show: Callable[[Outcome], None],
) -> None:  # fmt: skip
    """Serve until Ctrl-C or SIGTERM.

    Args:
        path: of the run.
        checkpoint: of it; the newest by default.
        changes: of its config.
        options: where to answer.
        console: for progress, and what dies meanwhile.
        show: receives what is served and where, once it is.

    Raises:
        CheckpointError: the run or the checkpoint cannot be used.
        ConfigError: a change or an option is wrong, or the address cannot be bound.
        ActorError: a part does not start.
    """
    run = RunDir.open(path)
    config = change_on_the_way(run.config(), changes)
    tokens = tokens_for(options, config)
    chosen = checkpoint_of(run, checkpoint)
    state = load_checkpoint(chosen, config)
    with started(config, console) as runtime:
        opened = inline_server if config.cluster.mode == "inline" else gateway_servers
        with opened(runtime, state, options, tokens) as (urls, events):
            show({"run": str(run.path), "checkpoint": str(chosen), "urls": urls})
            wait(events, console)


def tokens_for(options: ServeOptions, config: RunConfig) -> Mapping[str, str] | None:
    """Read the tokens of permitted callers; None permits every caller.

    Raises:
        ConfigError: the file cannot be used, or other machines could call without a token, or several
            gateways would be in one process.
    """
    if options.gateways > 1 and config.cluster.mode == "inline":
        raise ConfigError(f"--gateways {options.gateways} with cluster.mode inline, which is one process: use ray")
    if options.tokens is not None:
        return read_tokens(options.tokens)
    if not is_loopback(options.host):
        raise ConfigError(f"{options.host} is open to other machines: give --tokens, or --host 127.0.0.1")
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host.

    Raises:
        ConfigError: it is not an address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"--host {host} is no address: give one of this machine's, such as 127.0.0.1") from None


@contextmanager
def inline_server(
    runtime: Runtime, state: LearnerState, options: ServeOptions, tokens: Mapping[str, str] | None
) -> Iterator[tuple[list[str], Events]]:
    """A server in this process, which has all parts."""
    from actors.serving.http_app import PredictionAPI
    from actors.serving.http_server import HTTPServer
    from actors.serving.predictor import PredictionService

    learner = make_learner(runtime)
    learner.load_state(state)
    server = HTTPServer(PredictionAPI(PredictionService(lambda: learner, 0), tokens), options.host, options.port)
    try:
        yield [server.url], list
    finally:
        server.stop()


@contextmanager
def gateway_servers(
    runtime: Runtime, state: LearnerState, options: ServeOptions, tokens: Mapping[str, str] | None
) -> Iterator[tuple[list[str], Events]]:
    """Gateways that serve; SLMs and memory are actors."""
    import ray

    from actors.serving.gateway import Gateways, ServedSystem
    from cluster.run.ray_runtime import RayRuntime

    assert isinstance(runtime, RayRuntime)
    config, cluster = runtime.config, runtime.config.cluster
    runtime.memory().restore(state.memory)
    served = ServedSystem(
        config.model, config.phases, config.seed, cluster.threads, runtime.handles, ray.put(state),
        cluster.max_failures, options.host, options.port, tokens,
    )  # fmt: skip
    gateways = Gateways(options.gateways, served, cluster.timeout_s)
    try:
        yield gateways.urls, gateways.news
    finally:
        gateways.stop()


def wait(events: Events, console: Console) -> None:
    """Until Ctrl-C; SIGTERM ends all commands alike."""
    try:
        while True:
            for event in events():
                console.print(event, style="yellow", highlight=False, markup=False)
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return
