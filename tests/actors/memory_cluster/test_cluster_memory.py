"""A memory of a Ray cluster: where copies go, what is known after a loss, and that it goes on whoever is killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest

from actors.errors import ActorError
from actors.memory.coordinator import FileCoordinator, MirroredCoordinator, ShardState
from actors.memory.shard_map import load_map
from actors.memory_cluster import ray_coordinator as ray_directory
from actors.memory_cluster.actor_registry import (
    RAY_NAMESPACE,
    call_actors,
    end_actors,
    is_up,
    replica_name,
    replicas_of,
    supervisor_name,
)
from actors.memory_cluster.cluster_memory import ClusterMemory, restore_entry
from actors.memory_cluster.ray_coordinator import KEPT_VERSIONS, RayCoordinator
from actors.memory_cluster.replica_actor import MemoryConfig
from actors.memory_cluster.supervisor import choose_node
from leworld.errors import ConfigError, StoreError
from leworld.store.layout import Layout
from leworld.store.writer_lock import WriterLock

REPOSITORY = Path(__file__).parents[3]
BITS = 16


def placed(place=(0, 0), alive=("a", "b", "c"), nodes=None, files=None, *, together=False) -> str:
    return choose_node(place, alive, nodes or {}, files or {}, together=together)


def test_a_copy_goes_where_its_files_are():
    assert placed(files={(0, 0): "c", (0, 1): "a"}) == "c"
    # Unless that node is gone, or has another copy of this shard.
    assert placed(files={(0, 0): "z"}) in "abc"
    assert placed(nodes={(0, 1): "c"}, files={(0, 0): "c"}) in "ab"
    assert placed(nodes={(1, 0): "c"}, files={(0, 0): "c"}) == "c"


def test_copies_are_on_nodes_of_their_own_and_as_many_everywhere():
    nodes: dict[tuple[int, int], str] = {}
    for place in [(shard, copy) for shard in range(6) for copy in range(2)]:
        nodes[place] = placed(place, nodes=nodes)
    assert all(nodes[shard, 0] != nodes[shard, 1] for shard in range(6))
    assert sorted(list(nodes.values()).count(node) for node in "abc") == [4, 4, 4]
    # What another copy has left is that one's.
    assert placed((0, 1), alive=("a", "b"), files={(0, 0): "a"}) == "b"


def test_too_few_nodes_are_told_with_the_way_out():
    with pytest.raises(ConfigError, match=r"shard 0: copy 1 needs a node .* all 1 have one: .* --together"):
        placed((0, 1), alive=("a",), nodes={(0, 0): "a"})
    assert placed((0, 1), alive=("a",), nodes={(0, 0): "a"}, together=True) == "a"
    assert placed((0, 1), alive=("a", "b"), nodes={(0, 0): "a"}, together=True) == "b"


def seen(name: str, state: ShardState | None = None) -> tuple[str, str, dict[str, bytes]]:
    return name, f"tcp://new-{name}", {} if state is None else {"shard-0": state.to_bytes()}


OLD = ShardState(4, 2, "a", ("a", "b"), {"a": "tcp://a", "b": "tcp://b"})
ALONE = ShardState(6, 3, "b", ("b",), {"a": "tcp://a", "b": "tcp://b"})


def test_what_was_seen_last_is_restored(tmp_path):
    directory = FileCoordinator(tmp_path)
    restore_entry(directory, "shard-0", [seen("a", OLD), seen("b", ALONE)])
    found = directory.get("shard-0")
    assert (found.version, found.epoch, found.leader, found.in_sync) == (6, 3, "b", ("b",))
    assert found.addresses == {"a": "tcp://new-a", "b": "tcp://new-b"}
    # What the directory knows stays.
    restore_entry(directory, "shard-0", [seen("a", replace(OLD, version=99))])
    assert directory.get("shard-0") == found
    restore_entry(directory, "shard-1", [seen("a"), seen("b")])
    assert directory.load("shard-1") is None


def test_nothing_is_restored_where_a_copy_may_be_newer(tmp_path):
    directory = FileCoordinator(tmp_path)
    with pytest.raises(StoreError, match=r"shard-0: copy b is not among those that run.*--accept-loss"):
        restore_entry(directory, "shard-0", [seen("a", OLD), seen("c")])
    with pytest.raises(StoreError, match=r"copy b is not among those that run.*which has its files$"):
        restore_entry(directory, "shard-0", [seen("a", ALONE), seen("c")], accept_loss=True)
    assert directory.load("shard-0") is None
    restore_entry(directory, "shard-0", [seen("a", OLD), seen("c")], accept_loss=True)
    assert directory.get("shard-0").in_sync == ("a",)


def test_a_copy_keeps_what_it_saw_of_the_directory(tmp_path):
    plain = FileCoordinator(tmp_path / "directory")
    one = MirroredCoordinator(plain, tmp_path / "one")
    assert one.replace("shard-0", ShardState(1, 1, "a"))
    plain.replace("shard-0", ShardState(2, 2, "b"))
    again = MirroredCoordinator(plain, tmp_path / "one")
    assert ShardState.from_bytes(again.entries()["shard-0"]).version == 1
    assert again.get("shard-0").version == 2
    assert ShardState.from_bytes(again.entries()["shard-0"]).leader == "b"


def entry(version: int, content: str = "") -> bytes:
    return msgpack.packb({"version": version, "content": content})


@pytest.fixture
def directory(ray_cluster) -> Iterator[RayCoordinator]:
    found = RayCoordinator("of-a-test")
    yield found
    found.forget()


@pytest.mark.ray
def test_only_one_of_many_puts_a_version(directory):
    assert directory.load("x") is None
    counts, wins = [0] * 4, []

    def race(number: int) -> None:
        while (version := msgpack.unpackb(directory.load("x") or entry(0))["version"]) < 100:
            if directory.store("x", version + 1, entry(version + 1, f"{number}")):
                counts[number] += 1
                wins.append(version + 1)

    threads = [threading.Thread(target=race, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(1, 101))
    assert len(directory._versions("x")) <= KEPT_VERSIONS
    # Whoever comes late with an old one, of which there is no key any more, is not first.
    for late in (1, 2, 30, 99, 100, 102):
        assert not directory.store("x", late, entry(late, "late"))
    assert msgpack.unpackb(directory.load("x"))["version"] == 100


@pytest.mark.ray
def test_an_old_version_that_was_long_on_its_way_is_taken_back(directory, monkeypatch):
    for version in range(1, 2 * KEPT_VERSIONS):
        assert directory.store("x", version, entry(version))
    whole, calls = RayCoordinator._versions, []
    for version, before in ((1, []), (30, [29])):

        def stale(self, name, before=before):
            calls.append(name)
            return before if len(calls) == 1 else whole(self, name)

        calls.clear()
        monkeypatch.setattr(RayCoordinator, "_versions", stale)
        assert not directory.store("x", version, entry(version, "late"))
        monkeypatch.setattr(RayCoordinator, "_versions", whole)
        assert version not in directory._versions("x")


@pytest.mark.ray
def test_seeds_only_where_there_is_nothing_and_names_apart(directory):
    assert directory.seed("x", entry(7))
    assert not directory.seed("x", entry(9))
    assert not directory.store("x", 7, entry(7))
    assert directory.store("x", 8, entry(8, "next"))
    assert directory.load("x/") is None
    assert RayCoordinator("of-a").load("x") is None
    directory.forget()
    assert directory.load("x") is None


def test_what_is_out_of_reach_is_one_line(monkeypatch):
    class Down:
        def internal_kv_keys(self, *_, **__):
            raise RuntimeError("failed to connect\nand much more")

    def connected_to(client: object) -> None:
        monkeypatch.setattr(ray_directory.internal_kv, "internal_kv_get_gcs_client", lambda: client)

    connected_to(None)
    with pytest.raises(StoreError, match=r"has no connection to a Ray cluster: call ray.init first"):
        RayCoordinator("of-a-test").load("x")
    connected_to(Down())
    with pytest.raises(StoreError, match=r"control store does not answer \(failed to connect\): see to its head"):
        RayCoordinator("of-a-test").get("x")


@pytest.fixture
def config(ray_cluster, tmp_path) -> Iterator[MemoryConfig]:
    """Of a memory on the one node that there is; it is stopped at the end."""
    name = f"memory-{os.getpid()}"
    yield MemoryConfig(name, str(tmp_path / "disk"), BITS, 1, 2, lease_s=0.5, together=True)
    end_actors({0: supervisor_name(name)})
    end_actors(replicas_of(name))
    RayCoordinator(name).forget()


def filled(memory: ClusterMemory) -> np.ndarray:
    """(16, 256) words at every 16th page."""
    words = np.random.default_rng(1).integers(1, 1 << 32, (16, 256), dtype=np.uint32)
    store = memory.client()
    store.write(np.arange(16) * 4096, words)
    store.close()
    return words


def words_in(memory: ClusterMemory) -> np.ndarray:
    store = memory.client()
    try:
        return store.read(np.arange(16) * 4096, np.full(16, 256)).words.reshape(16, 256)
    finally:
        store.close()


def kill_copies(config: MemoryConfig) -> None:
    """``kill -9`` of the processes of all copies."""
    for process in call_actors(replicas_of(config.name), "process", 60).values():
        os.kill(process.pid, signal.SIGKILL)


def lose_everything(config: MemoryConfig) -> None:
    """As after a loss of the whole cluster: no process and no directory, only files."""
    import ray

    names = [supervisor_name(config.name), *replicas_of(config.name).values()]
    for handle in [ray.get_actor(name, RAY_NAMESPACE) for name in names]:
        ray.kill(handle)
    while any(is_up(name) for name in names):
        time.sleep(0.05)
    RayCoordinator(config.name).forget()


@pytest.mark.ray
def test_all_copies_and_the_keeper_are_killed_at_once_and_a_client_goes_on(config):
    import ray

    memory = ClusterMemory.launch(config)
    words, store = filled(memory), memory.client(90)
    ray.kill(ray.get_actor(supervisor_name(config.name), RAY_NAMESPACE), no_restart=False)
    kill_copies(config)
    # All have other ports now, and nobody of before is there to be asked.
    assert np.array_equal(store.read(np.arange(16) * 4096, np.full(16, 256)).words.reshape(16, 256), words)
    store.write([0], np.full((1, 8), 5, np.uint32))
    assert store.read([0], [8]).words.tolist() == [5] * 8
    store.close()
    assert set(memory.nodes()) == {replica_name(config.name, (0, copy)) for copy in range(2)}


@pytest.mark.ray
def test_two_launches_at_once_and_a_keeper_that_is_lost_meanwhile(config):
    import ray

    found: list[ClusterMemory | Exception] = []

    def launch() -> None:
        try:
            found.append(ClusterMemory.launch(config))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=launch) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not is_up(replica_name(config.name, (0, 0))) and not found:
        time.sleep(0.02)
    ray.kill(ray.get_actor(supervisor_name(config.name), RAY_NAMESPACE), no_restart=False)
    for thread in threads:
        thread.join()
    assert all(isinstance(memory, ClusterMemory) for memory in found), found
    assert sorted(replicas_of(config.name)) == [(0, 0), (0, 1)]
    assert np.array_equal(filled(found[0]), words_in(found[1]))
    with pytest.raises(ConfigError, match=r"other settings \(shards 1, copies 2\); stop it first"):
        ClusterMemory.launch(replace(config, shards=2, copies=1))


@pytest.mark.ray
def test_launch_goes_on_with_the_files_after_a_loss_of_everything_but_not_without_the_newest(config):
    words = filled(ClusterMemory.launch(config))
    lose_everything(config)
    memory = ClusterMemory.launch(config)
    assert np.array_equal(words_in(memory), words)
    lose_everything(config)
    (disk,) = Path(config.folder).iterdir()
    for path in disk.glob("shard-0-copy-1*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(StoreError, match=r"shard-0: copy 1-\w+ is not among those that run"):
        ClusterMemory.launch(config)
    assert not replicas_of(config.name)
    memory = ClusterMemory.launch(config, accept_loss=True)
    assert np.array_equal(words_in(memory), words)
    memory.stop()
    with pytest.raises(ConfigError, match=r"its files are of 1 shards and 16 bits: launch it with these"):
        ClusterMemory.launch(replace(config, shards=2))


@pytest.mark.ray
def test_a_copy_waits_for_the_process_that_has_its_files_and_says_so_if_that_stays(config, monkeypatch):
    memory = ClusterMemory.launch(config)
    words = filled(memory)
    memory.stop()
    held = WriterLock(Layout(Path(config.folder) / config.name / "shard-0-copy-0"))
    begin = time.monotonic()
    try:
        with pytest.raises(StoreError, match=r"shard-0-copy-0: is open for writing in process \d+; end that one"):
            ClusterMemory.launch(config)
        threading.Timer(3, held.release).start()
        memory = ClusterMemory.launch(config)
    finally:
        held.release()
    assert time.monotonic() - begin < 100
    assert np.array_equal(words_in(memory), words)


@pytest.mark.ray
def test_a_folder_that_cannot_be_used_is_one_line(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/memory-\d+: not a directory; mend that on its node"):
        ClusterMemory.launch(replace(config, folder=str(tmp_path / "file")))
    assert not replicas_of(config.name)
    assert RayCoordinator(config.name).load("launch") is None


@pytest.mark.ray
def test_shards_are_added_and_retired_with_their_files_and_a_client_that_was_there_goes_on(config):
    config = replace(config, copies=1)
    memory = ClusterMemory.launch(config)
    words, store = filled(memory), memory.client()

    def cut_off(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.reshard(3, cut_off)
    with pytest.raises(ConfigError, match="words are moving to 3 shards; end that with: leworld memory reshard"):
        memory.reshard(2)
    assert memory.reshard(3).written_pages == 16
    assert load_map(memory.coordinator).shards == (0, 1, 2)
    assert sorted(replicas_of(config.name)) == [(0, 0), (1, 0), (2, 0)]
    assert np.array_equal(store.snapshot().words, words)
    # All of it is lost; the copies alone know how many shards there are.
    lose_everything(config)
    memory = ClusterMemory.launch(replace(config, shards=3))
    store.close()
    store = memory.client()
    assert np.array_equal(store.snapshot().words, words)
    memory.reshard(1)
    assert sorted(replicas_of(config.name)) == [(0, 0)]
    assert np.array_equal(store.snapshot().words, words)
    assert set(store._shards) == {0}
    assert not list(Path(config.folder).glob("*/shard-[12]*"))
    store.close()
    memory.stop()
    assert not replicas_of(config.name)
    with pytest.raises(StoreError, match="the cluster has none of this name"):
        ClusterMemory(config.name)


@pytest.mark.ray
def test_who_does_not_answer_is_named(ray_cluster):
    with pytest.raises(ActorError, match=r"nobody/keeper did not answer in 0\.2 s: see Ray's logs"):
        call_actors({0: supervisor_name("nobody")}, "nodes", 0.2)


STORY = """
import logging, os, shutil, sys, threading, time
import numpy as np
os.environ.update(
    RAY_AUTH_MODE="disabled", RAY_health_check_initial_delay_ms="0", RAY_health_check_period_ms="300",
    RAY_health_check_timeout_ms="1000", RAY_health_check_failure_threshold="3", RAY_worker_niceness="0",
    RAY_USAGE_STATS_ENABLED="0", RAY_IGNORE_UNHANDLED_ERRORS="1",
)
import ray
from ray.cluster_utils import Cluster
from actors.memory_cluster.actor_registry import replicas_of
from actors.memory_cluster.cluster_memory import ClusterMemory
from actors.memory_cluster.replica_actor import MemoryConfig

size = {"object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **size})
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
nodes = [cluster.add_node(num_cpus=1, **size) for _ in range(2)]
config = MemoryConfig("notes", sys.argv[1] + "/{node}", 16, 2, 2, lease_s=1.0)
memory = ClusterMemory.launch(config)
ended, wrong, counts = threading.Event(), [], [0]

def load():
    client, random = memory.client(90), np.random.default_rng(0)
    start, values = np.arange(64, 1 << 16, 512), np.zeros(128, np.uint32)
    while not ended.is_set():
        chosen = random.choice(128, 8, replace=False)
        values[chosen] = random.integers(1, 1 << 32, 8, dtype=np.uint32)
        client.write(start[chosen], np.repeat(values[chosen], 32).reshape(8, 32))
        seen = random.choice(128, 8, replace=False)
        if not (client.read(start[seen], np.full(8, 32)).words.reshape(8, 32) == values[seen, None]).all():
            wrong.append(counts[0])
        counts[0] += 1
    everything = client.read(start, np.full(128, 32)).words.reshape(128, 32)
    if not (everything == values[:, None]).all():
        wrong.append("at the end")
    client.close()

def in_sync():
    client, end = memory.client(90), time.monotonic() + 90
    while time.monotonic() < end:
        found = client.stat()["shards"].values()
        if all(len(shard["in_sync"]) == 2 for shard in found) and set(memory.nodes().values()) <= alive():
            client.close()
            return
        time.sleep(0.2)
    raise TimeoutError(memory.nodes())

def alive():
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

loader = threading.Thread(target=load)
loader.start()
try:
    for shards in (3, 1):
        lost = next(node for node in nodes if node.node_id in memory.nodes().values())
        nodes.remove(lost)
        cluster.remove_node(lost, allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1, **size))
        in_sync()
        memory.reshard(shards)
finally:
    ended.set()
    loader.join()
assert not wrong, wrong
assert counts[0] > 5, counts
places = [node for name, node in memory.nodes().items()]
assert len(places) == len(set(places)) == 2, places
# Nobody waits for a node that is just gone.
cluster.remove_node(next(node for node in nodes if node.node_id in places), allow_graceful=False)
begin = time.monotonic()
memory.stop()
assert time.monotonic() - begin < 60 and not replicas_of("notes")
ray.shutdown()
cluster.shutdown()
print("all is right")
"""


@pytest.mark.slow
def test_nodes_are_lost_while_shards_move_and_nothing_is_wrong(tmp_path):
    # A head, nodes and a client of their own, apart from the cluster of this session.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(
        [sys.executable, "-c", STORY, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=280,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all is right" in done.stdout
