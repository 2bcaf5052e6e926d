"""A cluster from up to down, on machines that are namespaces of this host: trained on, with processes killed, resumed.

    python benchmarks/fake_cluster.py                  # some minutes; needs root, iproute2, openssh-server and rsync
    python benchmarks/fake_cluster.py --only bad       # only what is refused, and how fast

The machines have the packages that leworld needs, but not leworld: it comes with the job. It ends with exit code 1 if a
step did not do what it should.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machines import LAPTOP, SHARED, Machines

SOURCE = Path(__file__).resolve().parents[1]
FILE = "lab.yaml"
RUNS = f"{SHARED}/runs"
STEPS = "--set phases.joint.steps=40 --set output.checkpoint_every=5"
LINE_S = 30.0
"""Whatever is wrong has to be said by then."""

HEAD = "10.88.0.10"
LAB = f"""\
cluster_name: lab
provider: {{type: local, head_ip: {HEAD}, worker_ips: [10.88.0.11, 10.88.0.12]}}
auth: {{ssh_user: root, ssh_private_key: ~/.ssh/id_ed25519}}
head_start_ray_commands:
  - ray stop
  - >-
    ulimit -Sn $(ulimit -Hn); ray start --head --port=6379 --num-cpus=1 --object-store-memory=200000000
    --autoscaling-config=~/ray_bootstrap_config.yaml
worker_start_ray_commands:
  - ray stop
  - >-
    ulimit -Sn $(ulimit -Hn); ray start --address=$RAY_HEAD_IP:6379 --num-cpus=1 --object-store-memory=200000000
"""


@dataclass
class Lab:
    """Machines, and what was done on them.

    Attributes:
        machines: a laptop and three hosts.
        table: what, seconds, what came of it.
        wrong: steps that did not do what they should.
    """

    machines: Machines
    table: list[tuple[str, float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def leworld(self, arguments: str, limit_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """``leworld`` on the laptop."""
        return self.machines.run(LAPTOP, f"python -m cluster {arguments}", limit_s)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Time a step; what is put into the list is what came of it, and an assertion that fails is noted."""
        said: list[str] = []
        start = time.perf_counter()
        try:
            yield said
        except AssertionError as error:
            self.wrong.append(what)
            said.append(f"WRONG: {error}")
        seconds = time.perf_counter() - start
        self.table.append((what, seconds, "; ".join(said)))
        print(f"{seconds:6.1f} s  {what}: {'; '.join(said)}", file=sys.stderr, flush=True)

    def write(self, text: str, name: str = FILE) -> None:
        """A cluster file into the laptop's home."""
        (self.machines.home(LAPTOP) / name).write_text(text)

    def shared(self, path: str) -> Path:
        """A path of the shared folder, as the host sees it."""
        return self.machines.folder / "shared" / path.removeprefix(SHARED).lstrip("/")


def refused(lab: Lab, what: str, arguments: str, part: str) -> None:
    """A command has to end with one line that has this part, in time."""
    with lab.step(what) as said:
        start = time.perf_counter()
        ran = lab.leworld(arguments)
        lines = [line for line in ran.stderr.splitlines() if line.startswith("leworld: ")]
        said += lines or [ran.stderr.strip()[-300:] or ran.stdout.strip()[-300:]]
        assert ran.returncode == 2, f"exit code {ran.returncode}"
        assert len(lines) == 1, f"{len(lines)} lines"
        assert part in lines[0], f"{part!r} is not said"
        assert time.perf_counter() - start < LINE_S, "too late"


def refuse_before(lab: Lab) -> None:
    """Bad input that is found before anything starts."""
    machines = lab.machines
    refused(lab, "no cluster yet: status", f"cluster status ~/{FILE}", "has no token")
    lab.write(LAB.replace("10.88.0.12", "10.88.0.99"), "gone.yaml")
    refused(lab, "a worker that is not there", "cluster up ~/gone.yaml", "node 10.88.0.99 cannot be reached")
    lab.write(LAB.replace(HEAD, "10.88.0.98"), "headless.yaml")
    refused(lab, "a head that is not there", "cluster up ~/headless.yaml", "node 10.88.0.98 cannot be reached")
    machines.run(LAPTOP, "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/other")
    lab.write(LAB.replace("id_ed25519", "other"), "key.yaml")
    refused(lab, "a wrong ssh key", "cluster up ~/key.yaml", "does not let root in")
    machines.set_path("m2", "/usr/bin")
    refused(lab, "a node without the package", f"cluster up ~/{FILE}", "node 10.88.0.12 has no Ray")
    other = machines.home("m2") / "other" / "ray-2.59.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n")
    machines.set_path("m2")
    with (machines.home("m2") / ".bashrc").open("a") as file:
        file.write("export PYTHONPATH=$HOME/other\n")
    refused(lab, "another Ray on one node", f"cluster up ~/{FILE}", "has Ray 2.59.0, and the head")
    machines.set_path("m2")


def refuse_after(lab: Lab) -> None:
    """Bad input that only a cluster that runs can refuse."""
    token = lab.machines.home(LAPTOP) / ".leworld" / "clusters" / "lab" / "auth_token"
    right = token.read_text()
    token.write_text("0" * 64)
    refused(lab, "a wrong token: status", f"cluster status ~/{FILE}", "does not take the token")
    refused(lab, "a wrong token: submit", f"cluster submit ~/{FILE} -- leworld worlds", "does not take the token")
    token.write_text(right)
    refused(lab, "up once more", f"cluster up ~/{FILE}", "is up already")
    refused(lab, "a run into one node's folder", f"cluster submit ~/{FILE} -- leworld train", "give --out")


def up(lab: Lab) -> None:
    """All machines join, and status agrees."""
    with lab.step("up") as said:
        ran = lab.leworld(f"cluster up ~/{FILE} --limit 240")
        assert ran.returncode == 0, ran.stderr[-500:]
        said.append(ran.stdout.splitlines()[0])
        print(ran.stderr + ran.stdout, file=sys.stderr)
    with lab.step("status") as said:
        ran = lab.leworld(f"cluster status ~/{FILE} --json")
        found = json.loads(ran.stdout)
        said.append(f"{len(found['nodes'])} nodes, Ray {', '.join({node['ray'] for node in found['nodes']})}")
        assert len(found["nodes"]) == 3, found
        assert not found["problems"], found["problems"]


def steps_done(lab: Lab, phase: str) -> int:
    """Steps of a phase in the newest run."""
    file = lab.shared(f"{RUNS}/latest/metrics.jsonl")
    try:
        return sum(f'"phase": "{phase}"' in line for line in file.read_text().splitlines())
    except OSError:
        return 0


def wait_for(lab: Lab, done: Callable[[], bool], job: subprocess.Popen[str], limit_s: float = 200.0) -> None:
    """Until it is so; it has to be before the job ends."""
    deadline = time.monotonic() + limit_s
    while not done():
        assert job.poll() is None, "the job ended too early: " + (job.communicate()[0] or "")[-600:]
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        time.sleep(0.2)


@contextmanager
def job(lab: Lab, command: str) -> Iterator[subprocess.Popen[str]]:
    """A submitted job, and its output as it is shown on the laptop."""
    words = lab.machines.command(LAPTOP, f"python -m cluster cluster submit ~/{FILE} -- {command}")
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def where(lab: Lab, pattern: str) -> dict[str, int]:
    """How many processes of a kind each machine has."""
    counts = {name: len(lab.machines.processes(name, pattern)) for name in lab.machines.names}
    return {name: count for name, count in counts.items() if count}


def train_and_lose_an_slm(lab: Lab) -> None:
    """A run over three machines ends with the line that says how to go on."""
    with (
        lab.step("train until the joint phase") as said,
        job(lab, f"leworld train --config tiny --out {RUNS} {STEPS}") as running,
    ):
        wait_for(lab, lambda: steps_done(lab, "joint") >= 6, running)
        slms, copies = where(lab, "ray::SLMActor"), where(lab, "ray::MemoryCopy")
        said.append(f"SLMs on {slms}, memory on {copies}, learner on {where(lab, 'ray::RayTrainWorker')}")
        assert len(slms) == 3, slms
        with lab.step("kill -9 an SLM actor; the run says how to go on") as after:
            assert lab.machines.kill("m2", "ray::SLMActor"), "none was there"
            text = running.communicate(timeout=120)[0]
            lines = [line for line in text.splitlines() if line.startswith("leworld: ")]
            after += lines[-1:]
            assert lines, text[-800:]
            assert running.returncode != 0
            assert "resume" in lines[-1]


def resume_and_lose_a_node(lab: Lab) -> None:
    """A node that dies in the middle ends the run likewise, unless nothing of it was there."""
    before = steps_done(lab, "joint")
    with (
        lab.step("resume") as said,
        job(lab, f"leworld resume {RUNS}/latest") as running,
    ):
        wait_for(lab, lambda: steps_done(lab, "joint") > before, running)
        said.append(f"went on at joint step {before}")
        with lab.step("kill -9 a worker's raylet") as after:
            assert lab.machines.kill("m1", "raylet/raylet"), "none was there"
            try:
                text = running.communicate(timeout=150)[0]
            except subprocess.TimeoutExpired:
                raise AssertionError("the run neither ended nor went on") from None
            lines = [line for line in text.splitlines() if line.startswith("leworld: ")]
            after += lines[-1:] or [f"the run went on and ended with exit code {running.returncode}"]


def all_join_again(lab: Lab) -> None:
    """The same command as at the start brings the lost node back, if Ray has not done so already."""
    with lab.step("up again: the node joins") as said:
        ran = lab.leworld(f"cluster up ~/{FILE} --limit 200")
        there = ran.returncode == 0 or "is up already with 3 nodes" in ran.stderr
        said.append((ran.stdout or ran.stderr.strip()).splitlines()[-1 if ran.returncode else 0].strip())
        assert there, ran.stderr[-500:]


def finish(lab: Lab) -> None:
    """The run goes on to its end, with the numbers of a run in one process."""
    with lab.step("resume to the end") as said:
        ran = lab.leworld(f"cluster submit ~/{FILE} -- leworld resume {RUNS}/latest", 400)
        report = re.search(r"report: (\S+)", ran.stdout)
        said.append(report[0] if report else " ".join((ran.stdout + ran.stderr)[-300:].split()))
        assert ran.returncode == 0, f"exit code {ran.returncode}"
    with lab.step("the same in one process, on the laptop") as said:
        lab.leworld(f"train --config tiny --out /tmp/inline {STEPS} --set cluster.mode=inline")
        there = json.loads(lab.shared(f"{RUNS}/latest/gate.json").read_text())
        here = json.loads(lab.machines.run(LAPTOP, "cat /tmp/inline/latest/gate.json").stdout)
        said.append("gate.json is the same to the bit" if here == there else "gate.json DIFFERS")
        assert here == there


def down(lab: Lab) -> None:
    """Nothing of Ray is left anywhere."""
    with lab.step("logs") as said:
        said.append(f"{len(lab.leworld(f'cluster logs ~/{FILE}').stdout.splitlines())} lines of the last job")
    with lab.step("down") as said:
        ran = lab.leworld(f"cluster down ~/{FILE}")
        said.append(ran.stdout.strip() or ran.stderr[-500:])
        assert ran.returncode == 0, ran.stderr[-500:]
        left = where(lab, "raylet/raylet|gcs_server")
        assert not left, left


def main() -> int:
    """Do all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/leworld-machines"), help="for the machines' files")
    parser.add_argument("--only", choices=["bad", "good"], help="only what is refused, or only what works")
    chosen = parser.parse_args()
    # What ends this program has to end the machines too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with Machines(chosen.folder, SOURCE) as machines:
        lab = Lab(machines)
        lab.write(LAB)
        start = time.perf_counter()
        if chosen.only != "good":
            refuse_before(lab)
        good = [train_and_lose_an_slm, resume_and_lose_a_node, all_join_again, finish] if chosen.only != "bad" else []
        for part in (up, *([refuse_after] if chosen.only != "good" else []), *good, down):
            part(lab)
        seconds = time.perf_counter() - start
    print("| step | seconds | what came of it |\n|---|---:|---|")
    for what, took, said in lab.table:
        print(f"| {what} | {took:.1f} | {said} |")
    print(
        f"| all | {seconds:.0f} | {len(lab.wrong)} steps went wrong{': ' if lab.wrong else ''}{', '.join(lab.wrong)} |"
    )
    return 1 if lab.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
