"""A cluster from up to down, on machines that are namespaces of this host: trained on, with processes killed, resumed.

    python benchmarks/fake_cluster.py                  # some minutes; needs root, iproute2, openssh-server and rsync
    python benchmarks/fake_cluster.py --only bad       # only what is refused, and how fast
    python benchmarks/fake_cluster.py --only lost      # a network, a disk and the head, which the first has not

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
from fake_machines import LAPTOP, SHARED, Machines

SOURCE = Path(__file__).resolve().parents[1]
FILE = "lab.yaml"
RUNS = f"{SHARED}/runs"
STEPS = "--set phases.joint.steps=120 --set output.checkpoint_every=5"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
"""Of Debian's package libfaketime; without it nothing is tried with clocks."""
CUT_S = 15.0
"""Longer than SLM actors may be silent, shorter than nodes."""
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

    def leworld(self, arguments: str, limit_s: float = 300.0, settings: str = "") -> subprocess.CompletedProcess[str]:
        """``leworld`` on the laptop, with settings of its environment."""
        return self.machines.run(LAPTOP, f"{settings} python -m cluster {arguments}", limit_s)

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


def refused(lab: Lab, what: str, arguments: str, part: str, settings: str = "") -> None:
    """A command has to end with one line that has this part, in time."""
    with lab.step(what) as said:
        start = time.perf_counter()
        ran = lab.leworld(arguments, settings=settings)
        lines = [line for line in ran.stderr.splitlines() if line.startswith("leworld: ")]
        said += lines or [ran.stderr.strip()[-300:] or ran.stdout.strip()[-300:]]
        assert ran.returncode == 2, f"exit code {ran.returncode}"
        assert len(lines) == 1, f"{len(lines)} lines"
        assert part in lines[0], f"{part!r} is not said"
        assert time.perf_counter() - start < LINE_S, "too late"


def refuse_before(lab: Lab) -> None:
    """Bad input that is found before anything starts."""
    refused(lab, "no cluster yet: status", f"cluster status ~/{FILE}", "has no token")
    lab.write(LAB.replace("worker_ips", "worker_ip"), "misspelt.yaml")
    refused(lab, "a misspelt key", "cluster up ~/misspelt.yaml", "provider.worker_ips")
    lab.write(LAB.replace("10.88.0.12", "10.88.0.99"), "gone.yaml")
    refused(lab, "a worker that is not there", "cluster up ~/gone.yaml", "node 10.88.0.99 cannot be reached")
    lab.write(LAB.replace(HEAD, "10.88.0.98"), "headless.yaml")
    refused(lab, "a head that is not there", "cluster up ~/headless.yaml", "node 10.88.0.98 cannot be reached")
    with lab.machines.silent("m0"):
        refused(lab, "a head whose answers are dropped", f"cluster up ~/{FILE}", f"node {HEAD} cannot be reached")
    lab.machines.run(LAPTOP, "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/other")
    lab.write(LAB.replace("id_ed25519", "other"), "key.yaml")
    refused(lab, "a wrong ssh key", "cluster up ~/key.yaml", "does not let root in")
    with lab.machines.full("m2"):
        refused(lab, "a full disk on one node", f"cluster up ~/{FILE}", "node 10.88.0.12 has 0 MiB free in /tmp")
    refuse_versions(lab)


def refuse_versions(lab: Lab) -> None:
    """Nodes that are not like the head."""
    machines = lab.machines
    machines.set_path("m2", "/usr/bin")
    refused(lab, "a node without Ray", f"cluster up ~/{FILE}", "node 10.88.0.12 has no Ray")
    other = machines.home("m2") / "other" / "ray-2.59.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n")
    machines.set_path("m2", PYTHONPATH="$HOME/other")
    refused(lab, "another Ray on one node", f"cluster up ~/{FILE}", "has Ray 2.59.0, and the head")
    if FAKETIME.is_file():
        machines.set_path("m2", LD_PRELOAD=str(FAKETIME), FAKETIME="-2m")
        refused(lab, "clocks two minutes apart", f"cluster up ~/{FILE}", "s behind the head's")
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
    joining = f"train --config tiny --address {HEAD}:6379"
    with lab.machines.silent("m0"):
        refused(lab, "the head's answers are dropped: status", f"cluster status ~/{FILE}", "cannot be reached by ssh")
        refused(lab, "the same, to a run that would join", joining, "cannot be reached")
    refused(lab, "a run joins without a token", joining, "asks for a token")
    refused(lab, "a run joins with a wrong token", joining, "does not take the token", "RAY_AUTH_TOKEN=0")
    own = f"RAY_AUTH_TOKEN={right}"
    refused(lab, "a run joins from a machine that is no node", joining, "has no node on this machine", own)
    refuse_jobs(lab)


def refuse_jobs(lab: Lab) -> None:
    """Jobs that could not work."""
    submit = f"cluster submit ~/{FILE}"
    refused(lab, "a run into one node's folder", f"{submit} -- leworld train", "give --out")
    without = f"{submit} --working-dir /usr/share/doc/rsync -- leworld worlds"
    refused(lab, "a node without leworld, and no source shipped", without, "has no leworld")
    with lab.machines.full("m2"):
        refused(lab, "a disk fills up on a node: submit", f"{submit} -- leworld worlds", "has 0 MiB free in /tmp")
    train = f"{submit} -- leworld train --config tiny --out {RUNS} --set"
    unfit(lab, "a learner that fits no machine", f"{train} cluster.threads=4", "the learner needs 4 CPUs")
    unfit(lab, "a GPU where there is none", f"{train} cluster.device=cuda", "cuda")
    memory = f"{submit} -- leworld memory launch notes --bits 16 --copies 4"
    unfit(lab, "more copies of a memory than nodes", memory, "needs a node without another copy of it")
    unfit(lab, "more SLM actors than SLMs", f"{train} cluster.slm_actors=9", "cluster.slm_actors 9 is above")


def unfit(lab: Lab, what: str, arguments: str, part: str) -> None:
    """A job has to end with one line that has this part, in time."""
    with lab.step(what) as said:
        start = time.perf_counter()
        ran = lab.leworld(arguments)
        seconds = time.perf_counter() - start
        # Ray shows the end of a job's output once more where it failed.
        lines = list(dict.fromkeys(line for line in ran.stdout.splitlines() if line.startswith("leworld: ")))
        said += lines or [(ran.stdout + ran.stderr).strip()[-300:]]
        assert ran.returncode == 1, f"exit code {ran.returncode}"
        assert len(lines) == 1, f"{len(lines)} lines"
        assert part in lines[0], f"{part!r} is not said"
        assert seconds < LINE_S, "too late"


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
            lab.leworld(f"cluster stop ~/{FILE}")


def where(lab: Lab, pattern: str) -> dict[str, int]:
    """How many processes of a kind each machine has."""
    counts = {name: len(lab.machines.processes(name, pattern)) for name in lab.machines.names}
    return {name: count for name, count in counts.items() if count}


def events(lab: Lab) -> list[str]:
    """What the newest run noted of what was lost."""
    file = lab.shared(f"{RUNS}/latest/events.jsonl")
    return [json.loads(line)["what"] for line in file.read_text().splitlines()] if file.is_file() else []


def train_and_lose_parts(lab: Lab) -> None:
    """Where an SLM dies, or a machine, the run goes on; the machine joins again, and the run ends."""
    with job(lab, f"leworld train --config tiny --out {RUNS} {STEPS}") as running:
        with lab.step("train until the joint phase") as said:
            wait_for(lab, lambda: steps_done(lab, "joint") >= 6, running)
            slms, copies = where(lab, "ray::SLMProcess"), where(lab, "ray::ReplicaActor")
            said.append(f"SLMs on {slms}, memory on {copies}, learner on {where(lab, 'ray::RayTrainWorker')}")
            assert len(slms) == 3, slms
        with lab.step("status of what runs") as said:
            # Figures are shown some seconds after what they tell of.
            wait_for(lab, lambda: bool(status_of_runs(lab, said)), running)
        with lab.step("kill -9 an SLM actor") as said:
            before = (0, steps_done(lab, "joint"))
            assert lab.machines.kill("m2", "ray::SLMProcess"), "none was there"
            goes_on(lab, running, before, said)
            assert len(where(lab, "ray::SLMProcess")) == 3, "no other one was started"
        lose_a_machine(lab, running)
        all_join_again(lab)
        with lab.step("the run goes on to its end") as said:
            text = running.communicate(timeout=300)[0]
            report = re.search(r"report: (\S+)", text)
            said.append(report[0] if report else text[-300:])
            assert running.returncode == 0, f"exit code {running.returncode}"


def status_of_runs(lab: Lab, said: list[str]) -> list[str]:
    """The lines of status that tell of a run, its SLM actors and its memory."""
    lines = lab.leworld(f"cluster status ~/{FILE}").stdout.splitlines()
    said[:] = [line for line in lines if line.startswith(("run ", "SLM actors", "memory ", "no figures"))]
    return [line for line in said if line.startswith("run ")]


def without_the_learner(lab: Lab) -> str:
    """A worker that has other parts of a run."""
    learner = where(lab, "ray::RayTrainWorker")
    return next(name for name in ("m1", "m2") if name not in learner)


def lose_a_machine(lab: Lab, running: subprocess.Popen[str]) -> None:
    """A worker's Ray dies, and with it all that was there."""
    machine = without_the_learner(lab)
    with lab.step(f"kill -9 the raylet of {machine}") as said:
        before = (len(events(lab)), steps_done(lab, "joint"))
        assert lab.machines.kill(machine, "raylet/raylet"), "none was there"
        goes_on(lab, running, before, said)


def goes_on(lab: Lab, running: subprocess.Popen[str], before: tuple[int, int], said: list[str]) -> None:
    """A run notes that something was lost and gets further; before, it had noted and done so much."""
    noted, done = before
    wait_for(lab, lambda: len(events(lab)) > noted and steps_done(lab, "joint") >= done + 6, running)
    said.append(f"the run noted '{events(lab)[noted]}', and went on past joint step {done + 6}")


def said_at_end(running: subprocess.Popen[str], said: list[str]) -> str:
    """A job that has to fail with a line of ours: that line."""
    try:
        text = running.communicate(timeout=120)[0]
    except subprocess.TimeoutExpired:
        raise AssertionError("the run neither ended nor went on") from None
    lines = [line for line in text.splitlines() if line.startswith("leworld: ")]
    said += lines[-1:] or [text[-600:]]
    assert lines, "no line says why"
    assert running.returncode, "exit code 0"
    return lines[-1]


def lose_the_network(lab: Lab) -> None:
    """A worker whose cable is pulled while a run goes on, for a while and for good; it joins again when it is back."""
    with training(lab) as running:
        machine = without_the_learner(lab)
        before = (len(events(lab)), steps_done(lab, "joint"))
        with lab.machines.unplugged(machine):
            time.sleep(CUT_S)
        with lab.step(f"mend the cable of {machine}, pulled for {CUT_S:g} s") as said:
            goes_on(lab, running, before, said)
    with training(lab) as running:
        machine = without_the_learner(lab)
        with lab.machines.unplugged(machine):
            with lab.step(f"pull the cable of {machine}") as said:
                goes_on(lab, running, (len(events(lab)), steps_done(lab, "joint")), said)
            with lab.step("status without it") as said:
                ran = lab.leworld(f"cluster status ~/{FILE}")
                said += [line for line in ran.stdout.splitlines() if line.startswith(("cluster", "node 1"))]
                assert ran.returncode == 1, f"exit code {ran.returncode}"
    all_join_again(lab)


@contextmanager
def training(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """A new run, in its joint phase."""
    latest = lab.shared(f"{RUNS}/latest")
    before = latest.resolve()
    with job(lab, f"leworld train --config tiny --out {RUNS} {STEPS}") as running:
        with lab.step("train until the joint phase"):
            wait_for(lab, lambda: latest.resolve() != before and steps_done(lab, "joint") >= 6, running)
        yield running


def fill_a_disk(lab: Lab) -> None:
    """A node with a part of the memory has no room left while a run goes on."""
    with training(lab) as running:
        machine = next(iter(where(lab, "ray::ReplicaActor")))
        with lab.machines.full(machine), lab.step(f"fill the disk of {machine}, with a shard") as said:
            said_at_end(running, said)


def lose_the_head(lab: Lab) -> None:
    """A head that dies takes the run with it; the cluster is started anew, and the run goes on."""
    with training(lab) as running, lab.step("kill -9 the head's gcs_server and raylet") as said:
        assert lab.machines.kill("m0", "gcs_server|raylet/raylet"), "none was there"
        text = running.communicate(timeout=120)[0]
        said += text.splitlines()[-1:]
        assert running.returncode, "exit code 0"
    refused(lab, "status without a head", f"cluster status ~/{FILE}", "does not answer on its head")
    up(lab)
    finish(lab)


def all_join_again(lab: Lab) -> None:
    """The same command as at the start brings the lost node back, if Ray has not done so already."""
    with lab.step("up again: the node joins") as said:
        ran = lab.leworld(f"cluster up ~/{FILE} --limit 200")
        assert ran.returncode == 0 or "is up already with 3 nodes" in ran.stderr, ran.stderr[-500:]
        said.append((ran.stdout or ran.stderr.strip()).splitlines()[-1 if ran.returncode else 0].strip())


def finish(lab: Lab) -> None:
    """The run goes on to its end."""
    with lab.step("resume to the end") as said:
        ran = lab.leworld(f"cluster submit ~/{FILE} -- leworld resume {RUNS}/latest", 400)
        report = re.search(r"report: (\S+)", ran.stdout)
        said.append(report[0] if report else " ".join((ran.stdout + ran.stderr)[-300:].split()))
        assert ran.returncode == 0, f"exit code {ran.returncode}"
    compare(lab)


def compare(lab: Lab) -> None:
    """The newest run has the numbers of a run in one process."""
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


def parts(only: str | None) -> list[Callable[[Lab], None]]:
    """What is done, in this order."""
    before, after = ([refuse_before], [refuse_after]) if only in (None, "bad") else ([], [])
    good = [train_and_lose_parts, compare] if only in (None, "good") else []
    lost = [lose_the_network, fill_a_disk, lose_the_head] if only == "lost" else []
    return [*before, up, *after, *good, *lost, down]


def main() -> int:
    """Do all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/leworld-machines"), help="for the machines' files")
    parser.add_argument("--only", choices=["bad", "good", "lost"], help="only what is refused, or works, or is lost")
    chosen = parser.parse_args()
    # What ends this program has to end the machines too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with Machines(chosen.folder, SOURCE) as machines:
        lab = Lab(machines)
        lab.write(LAB)
        start = time.perf_counter()
        for part in parts(chosen.only):
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
