"""What a cluster's processes say of themselves, summed up from Prometheus' text."""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from actors.ray.metrics import COUNTERS, GAUGES
from cluster.machines import output
from cluster.machines.status_metrics import PREFIX, SCRIPT, summed_up

RUN = 'run="r-1"'
SAMPLES = {
    f'loss{{{RUN},phase="pretrain"}}': 0.5,
    f'loss{{{RUN},phase="joint"}}': 0.25,
    f'steps_total{{{RUN},phase="joint",WorkerId="a"}}': 30,
    f'steps_total{{{RUN},phase="joint",WorkerId="b"}}': 10,
    f'steps_total{{{RUN},phase="pretrain"}}': 500,
    f'step_seconds_total{{{RUN},phase="joint",part="rest"}}': 1.5,
    f'step_seconds_total{{{RUN},phase="joint",part="read"}}': 0.5,
    f'step_seconds_total{{{RUN},phase="pretrain",part="rest"}}': 99,
    f'reads_total{{{RUN},phase="joint"}}': 1000,
    f'read_bytes_total{{{RUN},phase="joint"}}': 4000,
    f"restarts_total{{{RUN}}}": 2,
    f'slm_use_ratio{{{RUN},slm="10"}}': 0.125,
    f'slm_use_ratio{{{RUN},slm="2"}}': 0.75,
    'steps_total{run="ended",phase="joint"}': 7,
    'queue_depth{actor="SLM actor 0 (SLM 0)"}': 3,
    'answers_total{actor="SLM actor 0 (SLM 0)",method="propose"}': 20,
    'answers_total{actor="SLM actor 0 (SLM 0)",method="state"}': 1,
    'answer_seconds_total{actor="SLM actor 0 (SLM 0)",method="propose"}': 0.1,
    'answer_seconds_total{actor="SLM actor 0 (SLM 0)",method="state"}': 50,
    'queue_depth{actor="SLM actor 1 (SLM 1)"}': 0,
    'memory_sequence{memory="m",shard="0",copy="0"}': 90,
    'memory_sequence{memory="m",shard="0",copy="1"}': 88,
    'memory_sequence{memory="m",shard="1",copy="0"}': 5,
    'memory_waiting_bytes{memory="m",shard="0",copy="0"}': 4096,
    'memory_reads_total{memory="m",shard="0",copy="0"}': 12,
    'memory_writes_total{memory="m",shard="0",copy="0"}': 13,
}
LINES = [f"{PREFIX}{name} {value}" for name, value in SAMPLES.items()]


def test_every_name_is_one_that_is_exported():
    names = {f"leworld_{name.partition('{')[0]}" for name in SAMPLES}
    assert names <= COUNTERS.keys() | GAUGES.keys()


def test_a_run_is_summed_up_in_the_phase_that_it_is_in():
    [run] = summed_up(LINES)["runs"]
    assert run == {
        "run": "r-1", "phase": "joint", "steps": 40, "step_ms": 50.0, "parts_ms": {"rest": 37.5, "read": 12.5},
        "reads_per_s": 500.0, "read_bytes_per_s": 2000.0, "loss": 0.25, "restarts": 2,
        "slm_use": {"2": 0.75, "10": 0.125},
    }  # fmt: skip


def test_actors_and_memories_are_summed_up():
    found = summed_up(LINES)
    assert found["slm_actors"] == [
        {"actor": "SLM actor 0 (SLM 0)", "waiting": 3, "answer_ms": 5.0},
        {"actor": "SLM actor 1 (SLM 1)", "waiting": 0, "answer_ms": None},
    ]
    [memory] = found["memories"]
    assert memory == {
        "memory": "m", "shards": 2, "copies": 3, "reads": 12, "writes": 13, "waiting_bytes": 4096, "behind": 2,
    }  # fmt: skip


def test_where_nothing_runs_there_is_nothing():
    assert summed_up([]) == {"runs": [], "slm_actors": [], "memories": []}


def test_people_see_them_below_the_nodes(capsys: pytest.CaptureFixture[str]):
    nodes = {"name": "lab", "expected": 1, "nodes": [], "problems": []}
    output.show_figures({**nodes, **summed_up(LINES), "silent": ["10.0.0.3:8080"]})
    shown = capsys.readouterr().out
    step = "run r-1: joint, 40 steps of 50.0 ms (read 12.5, rest 37.5), loss 0.25, 500 reads/s, 2,000 bytes/s"
    assert f"{step}, 2 restarts\n  trusted: SLM 2 75%, SLM 10 12%\n" in shown
    assert "SLM actors: 2; at most 3 questions wait; the slowest answers in 5.0 ms\n" in shown
    assert "memory m: 2 shards, 3 copies, the last of them 2 writes behind; 4,096 bytes wait for disks\n" in shown
    assert "no figures of 10.0.0.3:8080, which did not answer\n" in shown


class Exporter(BaseHTTPRequestHandler):
    """A node's."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write("\n".join(["# HELP ray_leworld_loss it", "ray_node_cpu 1.0", *LINES, ""]).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_the_head_asks_every_node_and_names_those_that_are_silent():
    server = HTTPServer(("127.0.0.1", 0), Exporter)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    targets = [f"127.0.0.1:{server.server_port}", "127.0.0.1:1"]
    ran = subprocess.run([sys.executable, "-c", SCRIPT, *targets], capture_output=True, text=True, check=True)
    server.shutdown()
    server.server_close()
    assert ran.stdout.splitlines() == [*LINES, "# silent 127.0.0.1:1"]
