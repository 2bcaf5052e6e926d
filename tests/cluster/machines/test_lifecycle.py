"""``leworld cluster`` with stand-ins for ``ray`` and ``ssh``: what they are asked, and errors of one line, in time."""

import json
import re
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from actors.errors import ActorError
from cluster.cli.app import main
from cluster.machines import dashboard as dashboards
from cluster.machines import jobs
from cluster.machines import ssh as shell
from cluster.machines import wait_for_nodes as joining
from cluster.machines.cluster_file import ClusterFile, load_cluster, prepare
from cluster.machines.dashboard import Dashboard, NotUp
from cluster.machines.job import entry_point, is_source
from cluster.machines.log_errors import last_trouble
from cluster.machines.node_probe import Probe, problems
from cluster.machines.ssh import on, ssh_arguments
from leworld.errors import ConfigError

GOOD = Probe("3.11.7", "2.60.0", None, (), ("10.0.0.1",), True, False, {"/tmp": 1 << 40}, (-1.0, 1.0))
ROOT = Path(__file__).parents[3]

SSH = """#!/bin/sh
echo "ssh $@" >> {log}
case "$*" in
  *-N*) {tunnel} ;;
  *10.0.0.3*) {third} ;;
esac
echo '{answer}'
"""


def answer(**changes: object) -> str:
    """What a node says of itself that is good but for this."""
    content = {"clock": time.time(), **GOOD.__dict__, **changes}
    del content["ahead_s"]
    return json.dumps(content)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cluster file, and a PATH on which ssh and ray are what a test makes of them."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "key").touch()
    content = {
        "cluster_name": "lab",
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
        "auth": {"ssh_user": "me", "ssh_private_key": str(tmp_path / "key")},
    }
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(content))
    return Bench(tmp_path)


class Bench:
    """Stand-ins on PATH, and what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.log = folder, folder / "lab.yaml", folder / "log"
        self.program("ray", f'#!/bin/sh\necho "ray $@ v2=$RAY_UP_enable_autoscaler_v2" >> {self.log}\n')
        self.ssh()

    @property
    def file(self) -> ClusterFile:
        return load_cluster(self.path)

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def ssh(self, third: str = ":", tunnel: str = "sleep 60", **changes: object) -> None:
        """Every machine is good, but for the third; see ``SSH``."""
        self.program("ssh", SSH.format(log=self.log, third=third, tunnel=tunnel, answer=answer(**changes)))

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def complaint(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        start = time.monotonic()
        assert main(["cluster", *arguments]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("leworld: ")]
        assert len(lines) == 1
        assert time.monotonic() - start < 15
        return lines[0]


@pytest.mark.parametrize(
    ("third", "part"),
    [
        (
            "echo 'ssh: connect to host 10.0.0.3 port 22: No route to host' >&2; exit 255",
            "node 10.0.0.3 cannot be reached by ssh (No route to host)",
        ),
        ("echo 'me@10.0.0.3: Permission denied (publickey).' >&2; exit 255", "node 10.0.0.3 does not let me in"),
        ("exit 127", "node 10.0.0.3 has no python"),
        ("echo '{}'; exit 0", "node 10.0.0.3 could not be looked at"),
        ("echo 'Welcome'; exit 0", "node 10.0.0.3 could not be looked at"),
    ],
)
def test_a_bad_node_is_found_before_anything_starts(bench: Bench, capsys, third: str, part: str):
    bench.ssh(third)
    assert part in bench.complaint(capsys, "up", str(bench.path))
    assert not any(line.startswith("ray") for line in bench.asked())
    assert not bench.file.home.exists()


def test_a_node_that_hangs_is_given_up(bench: Bench, capsys, monkeypatch):
    bench.ssh("exec sleep 60")
    monkeypatch.setattr(on, "__defaults__", (1.0, ""))
    assert "node 10.0.0.3 did not answer in 1 s" in bench.complaint(capsys, "up", str(bench.path))


def test_machines_in_use_are_not_taken(bench: Bench, capsys):
    bench.ssh(runs_ray=True)
    assert "machine 10.0.0.1: runs Ray that is not ours" in bench.complaint(capsys, "up", str(bench.path))


def test_a_ray_up_that_fails_says_why(bench: Bench, capsys):
    bench.program(
        "ray", "#!/bin/sh\necho 'RuntimeError: Version mismatch: 1 and 2'; echo 'Failed to setup head node.'; exit 1"
    )
    line = bench.complaint(capsys, "up", str(bench.path))
    assert "did not start (RuntimeError: Version mismatch: 1 and 2): all that Ray said is in" in line
    assert "Version mismatch" in bench.file.log.read_text()


def test_ray_up_gets_the_prepared_file_and_the_old_autoscaler(bench: Bench, capsys):
    bench.program("ray", f'#!/bin/sh\necho "ray $@ v2=$RAY_UP_enable_autoscaler_v2" >> {bench.log}; exit 1')
    bench.complaint(capsys, "up", str(bench.path))
    [line] = [line for line in bench.asked() if line.startswith("ray")]
    assert line == f"ray up -y --no-config-cache {bench.file.prepared} v2=0"
    assert any("rm -f /tmp/ray/cluster-lab.state" in line for line in bench.asked())


def test_no_cluster_is_said_by_all(bench: Bench, capsys):
    bench.ssh(tunnel="echo 'Permission denied (publickey)' >&2; exit 255")
    for arguments in (["status"], ["logs"]):
        assert "does not let me in" in bench.complaint(capsys, *arguments, str(bench.path))
    assert "give the path" in bench.complaint(capsys, "status", str(bench.folder / "gone.yaml"))
    assert "is no folder" in bench.complaint(capsys, "submit", str(bench.path), "--working-dir", "/nowhere", "--", "ls")


def test_down_stops_the_workers_that_ray_leaves(bench: Bench, capsys):
    prepare(bench.file)
    assert main(["cluster", "down", str(bench.path)]) == 0
    asked = bench.asked()
    for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        assert any(f"me@{host}" in line and "ray stop -g 10" in line for line in asked), host
    assert f"ray down -y {bench.file.prepared} v2=0" in asked
    assert not bench.file.token.exists()
    assert "cluster lab is down" in capsys.readouterr().out


def test_down_names_what_it_could_not_stop(bench: Bench, capsys):
    prepare(bench.file)
    bench.ssh("echo 'ssh: connect to host: No route to host' >&2; exit 255")
    assert main(["cluster", "down", str(bench.path)]) == 1
    assert "could not stop 10.0.0.3" in capsys.readouterr().out
    assert bench.file.token.exists()


def test_without_ssh_or_ray_it_is_said(bench: Bench, capsys, monkeypatch):
    (bench.folder / "bin" / "ssh").unlink()
    monkeypatch.setenv("PATH", str(bench.folder / "bin"))
    assert "ssh is not installed on this machine" in bench.complaint(capsys, "up", str(bench.path))


def test_ssh_never_asks_and_gives_up(bench: Bench):
    arguments = ssh_arguments(bench.file)
    assert {"BatchMode=yes", f"ConnectTimeout={shell.CONNECT_S}", "IdentitiesOnly=yes"} <= set(arguments)
    assert arguments[arguments.index("-i") + 1] == str(bench.file.key)


NODES = [
    {"node_ip": "10.0.0.2", "is_head_node": False, "state": "ALIVE", "resources_total": {"CPU": 2.0, "node:x": 1.0},
     "labels": {"ray.io/node-id": "1", "leworld-role": "slm"}},
    {"node_ip": "10.0.0.9", "is_head_node": False, "state": "DEAD", "resources_total": {}, "labels": {}},
    {"node_ip": "10.0.0.1", "is_head_node": True, "state": "ALIVE", "resources_total": {}, "labels": None},
]  # fmt: skip
PENDING = {"autoscalerReport": {"pendingNodes": [["10.0.0.3", "t", "setting-up"]], "failedNodes": [["10.0.0.4", "t"]]}}

RAYLETS = [
    {"state": "ALIVE", "nodeManagerAddress": "10.0.0.1", "metricsExportPort": 8080},
    {"state": "DEAD", "nodeManagerAddress": "10.0.0.9", "metricsExportPort": 8080},
]


STATES: list[str] = []
"""Of a job, one a question."""
STOPPED: list[str] = []
"""Jobs that were asked to stop."""


class Head(BaseHTTPRequestHandler):
    """A head's dashboard."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer right":
            self.send_error(403)
            return
        pages = {
            "/api/v0/nodes": {"data": {"result": {"result": NODES}}},
            "/api/cluster_status": {"data": {"clusterStatus": PENDING}},
            "/api/jobs/": [
                {"submission_id": "b", "start_time": 2}, {"submission_id": "a", "start_time": 1}, {"type": "DRIVER"},
            ],
            "/nodes": {"data": {"summary": [{"raylet": row} for row in RAYLETS]}},
            "/api/version": {"ray_version": "2.60.0"},
        }  # fmt: skip
        if self.path.startswith("/api/jobs/") and self.path not in pages:
            pages[self.path] = {"status": STATES.pop(0)}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(pages[self.path.partition("?")[0]]).encode())

    def do_POST(self) -> None:
        STOPPED.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def head(bench: Bench):
    server = HTTPServer(("127.0.0.1", 0), Head)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    bench.file.home.mkdir(parents=True)
    bench.file.token.write_text("right\n")
    yield Dashboard(bench.file, server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def through(head: Dashboard, monkeypatch) -> Dashboard:
    """Tunnels end at the stand-in."""
    monkeypatch.setattr(dashboards, "_free_port", lambda: int(head.url.rpartition(":")[2]))
    return head


def test_the_dashboard_tells_who_lives_and_who_waits(head: Dashboard):
    nodes = head.nodes()
    assert [(node.address, node.is_head) for node in nodes] == [("10.0.0.1", True), ("10.0.0.2", False)]
    assert nodes[1].resources == {"CPU": 2.0}
    assert nodes[1].labels == {"leworld-role": "slm"}
    assert head.waiting() == {"10.0.0.3": "setting-up", "10.0.0.4": "could not be set up"}
    assert [job["submission_id"] for job in head.jobs()] == ["a", "b"]


def test_a_wrong_token_and_a_head_that_is_gone_are_said(head: Dashboard):
    head.file.token.write_text("wrong")
    with pytest.raises(ActorError, match="does not take the token in"):
        head.nodes()
    head.file.token.unlink()
    with pytest.raises(ActorError, match="has no token on this machine"):
        head.nodes()
    head.file.token.write_text("right")
    with pytest.raises(NotUp, match="does not answer on its head"):
        Dashboard(head.file, dashboards._free_port()).nodes()


def test_status_shows_nodes_and_names_what_is_wrong(bench: Bench, through, capsys):
    other = answer(ray="2.59.0", addresses=["10.0.0.3"])
    bench.ssh(f"echo '{other}'; exit 0", addresses=["10.0.0.1"])
    assert main(["cluster", "status", str(bench.path)]) == 1
    shown = capsys.readouterr().out
    assert "cluster lab: 2 of 3 nodes" in shown
    assert "node 10.0.0.3 has Ray 2.59.0, and the head 2.60.0: install the same on every node" in shown
    assert "node 10.0.0.3 has not joined, the autoscaler says: setting-up" in shown
    assert main(["cluster", "status", str(bench.path), "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    assert [node["python"] for node in outcome["nodes"]] == ["3.11.7", "3.11.7"]
    assert any("10.0.0.1:8080" in line for line in bench.asked())


def test_status_shows_what_runs_there(bench: Bench, through, capsys):
    lines = [
        f'ray_leworld_{name}{{run="r-1",phase="joint"}} {value}' for name, value in (("loss", 0.5), ("steps_total", 7))
    ]
    printed = "; ".join(f"echo '{line}'" for line in ("# silent 10.0.0.2:8080", *lines))
    bench.program(
        "ssh", f"#!/bin/sh\ncase \"$*\" in *-N*) sleep 60 ;; *urllib*) {printed}; exit 0 ;; esac\necho '{answer()}'\n"
    )
    main(["cluster", "status", str(bench.path)])
    shown = capsys.readouterr().out
    assert "run r-1: joint, 7 steps" in shown
    assert "no figures of 10.0.0.2:8080, which did not answer" in shown


def test_up_does_not_end_the_jobs_of_a_cluster_that_runs(bench: Bench, through, capsys, monkeypatch):
    bench.ssh(runs_ray=True)
    monkeypatch.setattr(f"{__name__}.NODES", [*NODES, {**NODES[0], "node_ip": "10.0.0.3"}])
    assert "is up already with 3 nodes" in bench.complaint(capsys, "up", str(bench.path))
    assert not any(line.startswith("ray") for line in bench.asked())


def test_up_starts_a_node_that_ray_gave_up(bench: Bench, through, capsys, monkeypatch):
    monkeypatch.setattr(joining, "GIVEN_UP_S", 0.0)
    monkeypatch.setitem(PENDING, "autoscalerReport", {"pendingNodes": [["10.0.0.3", "t", "uninitialized"]]})
    failing = "echo 'RuntimeError: Version mismatch: 1 and 2'; exit 1"
    up = answer(runs_ray=True)
    bench.ssh(f'case "$*" in *"ray start"*) {failing} ;; esac; echo \'{up}\'; exit 0', runs_ray=True)
    line = bench.complaint(capsys, "up", str(bench.path))
    assert "node 10.0.0.3 does not start Ray (RuntimeError: Version mismatch: 1 and 2)" in line
    [start] = [line for line in bench.asked() if "ray start" in line]
    assert "export RAY_HEAD_IP=10.0.0.1; " in start
    assert "RAY_AUTH_MODE=token" in start
    assert not any(line.startswith("ray") for line in bench.asked())


def test_patience_ends_only_where_nobody_is_at_work():
    patience, waiting = joining.Patience(), {"a": "setting-up", "b": "uninitialized"}
    assert patience.given_up(["a", "b", "c"], waiting, 0.0) == []
    assert patience.given_up(["a", "b", "c"], waiting, joining.GIVEN_UP_S) == ["b", "c"]
    assert patience.given_up(["b"], {"b": "setting-up"}, joining.GIVEN_UP_S + 1) == []
    assert patience.given_up(["b"], waiting, joining.GIVEN_UP_S + 2) == []


def test_submit_asks_ray_with_the_source_and_the_token(bench: Bench, through, capsys):
    bench.program("ray", f'#!/bin/sh\necho "ray $@ $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH" >> {bench.log}; exit 3')
    command = ["leworld", "train", "--out", "/shared/runs", "--set", "seed=1"]
    assert main(["cluster", "submit", str(bench.path), "--working-dir", str(ROOT), "--", *command]) == 3
    [line] = [line for line in bench.asked() if line.startswith("ray")]
    line = re.sub(r"--submission-id leworld-\S+ ", "", line)
    entry = "python -m cluster train --out /shared/runs --set seed=1 --address auto"
    assert line == (f"ray job submit --address {through.url} --working-dir {ROOT} -- {entry} token {bench.file.token}")


def test_submit_ends_when_the_job_does(bench: Bench, through, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    arguments = ["cluster", "submit", str(bench.path), "--", "ls"]
    for states, code in (["SUCCEEDED"], 0), (["RUNNING", "RUNNING", "SUCCEEDED"], 0), (["PENDING", "FAILED"], 1):
        STATES[:] = states
        assert main(arguments) == code
        assert ("which goes on: waits for its end" in capsys.readouterr().err) == (len(states) > 1)
    STATES.clear()
    assert main([*arguments[:3], "--no-wait", "--", "ls"]) == 0


def test_submit_says_that_the_head_died(bench: Bench, through, capsys, monkeypatch):
    real = Dashboard.jobs

    def gone(dashboard: Dashboard) -> list:
        monkeypatch.setattr(dashboard, "url", "http://127.0.0.1:1")
        return real(dashboard)

    monkeypatch.setattr(Dashboard, "jobs", gone)
    bench.program("ray", "#!/bin/sh\necho Traceback >&2; exit 1")
    line = bench.complaint(capsys, "submit", str(bench.path), "--", "ls")
    assert "cluster lab does not answer on its head (Connection refused): start it with" in line.replace(
        "[Errno 111] ", ""
    )


@pytest.mark.parametrize("dies", [True, False])
def test_submit_does_not_wait_for_a_ray_that_lost_its_head(bench: Bench, through, capsys, monkeypatch, dies: bool):
    monkeypatch.setattr(jobs, "POLL_S", 0.05)
    monkeypatch.setattr(jobs, "LOST_S", 0.2)
    times = iter(range(100))
    monkeypatch.setattr(Dashboard, "has_lost_its_head", lambda dashboard: dies or next(times) % 3 > 0)
    bench.program("ray", f"#!/bin/sh\nexec sleep {60 if dies else 1}")
    arguments = ["submit", str(bench.path), "--", "ls"]
    if dies:
        line = bench.complaint(capsys, *arguments)
        assert "cluster lab does not answer on its head (its control service is gone): start it with" in line
    else:
        STATES[:] = ["SUCCEEDED"]
        assert main(["cluster", *arguments]) == 0


@pytest.mark.parametrize(("code", "lost"), [(503, True), (200, False), (404, False)])
def test_a_dashboard_says_whether_it_lost_its_head(head: Dashboard, monkeypatch, code: int, lost: bool):
    monkeypatch.setattr(Head, "do_GET", lambda handler: handler.send_error(code))
    assert head.has_lost_its_head() == lost
    assert not Dashboard(head.file, dashboards._free_port()).has_lost_its_head()


def test_submit_without_the_source_needs_leworld_on_every_node(bench: Bench, through, capsys):
    arguments = ["submit", str(bench.path), "--working-dir", str(bench.folder), "--", "leworld", "worlds"]
    assert "node 10.0.0.1 has no leworld" in bench.complaint(capsys, *arguments)


def test_logs_are_of_the_newest_job_or_of_one_that_there_is(bench: Bench, through, capsys):
    assert main(["cluster", "logs", str(bench.path), "--follow"]) == 0
    assert any(f"ray job logs --address {through.url} b --follow" in line for line in bench.asked())
    assert "has no job c; the newest is b" in bench.complaint(capsys, "logs", str(bench.path), "--job", "c")


def test_stop_waits_for_the_end_of_the_newest_job_or_of_one_that_there_is(bench: Bench, through, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    STATES[:] = ["RUNNING", "STOPPED"]
    assert main(["cluster", "stop", str(bench.path)]) == 0
    assert "job b: STOPPED" in capsys.readouterr().out
    assert STOPPED.pop() == "/api/jobs/b/stop"
    assert "has no job c; the newest is b" in bench.complaint(capsys, "stop", str(bench.path), "--job", "c")
    monkeypatch.setattr(jobs, "STOP_S", 0.0)
    STATES[:] = ["RUNNING"]
    assert "job a still runs after 0 s" in bench.complaint(capsys, "stop", str(bench.path), "--job", "a")


@pytest.mark.parametrize(
    ("command", "entry"),
    [
        ("leworld worlds", "python -m cluster worlds"),
        ("leworld train --out /s", "python -m cluster train --out /s --address auto"),
        ("leworld train --set output.dir=/s", "python -m cluster train --set output.dir=/s --address auto"),
        ("leworld resume /s/latest --address=h:1", "python -m cluster resume /s/latest --address=h:1"),
        ("python script.py", "python script.py"),
    ],
)
def test_entry_points(command: str, entry: str):
    assert entry_point(command.split(), 3, True) == entry.split()


def test_entry_points_of_what_is_installed_and_of_runs_on_one_node():
    assert entry_point(["leworld", "worlds"], 3, False) == ["leworld", "worlds"]
    assert entry_point(["leworld", "train"], 1, True)[-2:] == ["--address", "auto"]
    for command in (["leworld", "train"], ["leworld", "train", "--out", "runs"], []):
        with pytest.raises(ConfigError, match="submit: "):
            entry_point(command, 3, True)


def test_this_repository_is_source(tmp_path: Path):
    assert is_source(ROOT)
    assert not is_source(tmp_path)
    assert "/tests/" in (ROOT / ".rayignore").read_text()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"ray": None}, "has no Ray"),
        ({"ray": "2.59.0"}, "has Ray 2.59.0, and the head 2.60.0"),
        ({"python": "3.12.1"}, "has Python 3.12, and the head 3.11"),
        ({"leworld": "0.0.9"}, "has leworld 0.0.9, and the head 0.1.0"),
        ({"missing": ("torch", "pyzmq")}, "lacks torch, pyzmq"),
        ({"has_rsync": False}, "has no rsync"),
        ({"free": {"/tmp": 511 << 20}}, "has 511 MiB free in /tmp, and needs 512"),
        ({"ahead_s": (15.5, 16.5)}, "has a clock at least 14 s before the head's"),
        ({"ahead_s": (-16.5, -15.5)}, "has a clock at least 14 s behind the head's"),
    ],
)
def test_what_is_wrong_with_a_node(changes, part: str):
    head = Probe(**{**GOOD.__dict__, "leworld": "0.1.0"})
    [error] = problems({"h": head, "w": Probe(**{**head.__dict__, **changes})}, "h")
    assert str(error).startswith(f"node w {part}")


def test_nodes_that_fit_are_not_complained_about():
    # A slow answer leaves the clock in doubt, and is no harm.
    other = Probe(**{**GOOD.__dict__, "python": "3.11.9", "ahead_s": (-2.0, 20.0)})
    assert problems({"h": GOOD, "w": other}, "h") == []
    assert len(problems({"h": GOOD, "w": other}, "h", shipped=False)) == 2


def test_the_line_that_says_most():
    log = "\x1b[31mRuntimeError: Version mismatch: 2.59\x1b[0m\nFailed to setup head node.\nShared connection closed."
    assert last_trouble(log) == "RuntimeError: Version mismatch: 2.59"
    assert last_trouble("a: Permission denied\nb: No route to host", "a: ") == "a: Permission denied"
    assert last_trouble("Start command failed.") == "Start command failed."
    assert last_trouble("all is well") == ""
    assert len(last_trouble("error " * 99)) == 160


def test_up_of_a_cloud_is_tried_again_where_it_failed(bench: Bench, capsys):
    content = {
        "cluster_name": "cloud", "provider": {"type": "aws", "region": "us-west-2"}, "head_node_type": "head",
        "auth": {"ssh_user": "me", "ssh_private_key": str(bench.folder / "key")},
        "available_node_types": {"head": {"resources": {}, "node_config": {"InstanceType": "m5.large"}}},
    }  # fmt: skip
    path = bench.folder / "cloud.yaml"
    path.write_text(yaml.safe_dump(content))
    bench.program("ray", f'#!/bin/sh\necho "ray $@" >> {bench.log}; echo "no head here" >&2; exit 1')
    for _ in range(2):
        assert "cluster cloud did not start (no head here)" in bench.complaint(capsys, "up", str(path))
    assert [line.split()[1] for line in bench.asked()] == ["up", "get-head-ip", "up"]
    assert "is not known to the cloud (no head here)" in bench.complaint(capsys, "status", str(path))
