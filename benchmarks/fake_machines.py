"""Machines for trying clusters on one host: a laptop and hosts with sshd, made of Linux namespaces.

Each has a network address, processes, a home, /tmp, /run and /dev/shm of its own; the rest of the file system is the
host's. All of them see one folder at /mnt, as machines see a file server. Needs root, iproute2, openssh-server, rsync.
The hosts' /tmp is in memory, and small, so that it can be filled.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BRIDGE = "lw-bridge"
LAPTOP = "laptop"
SHARED = "/mnt"
TMP_SIZE = "1g"
SSHD = "/usr/sbin/sshd -D -e -o UsePAM=no -o PidFile=none -o PermitRootLogin=yes -o MaxStartups=50 -o MaxSessions=50"
TOOLS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")


@dataclass
class Machines:
    """Fake machines that live until the block ends.

    Attributes:
        folder: for their private folders, on the host.
        source: leworld's source; only the laptop sees it.
        names: of the hosts.
    """

    folder: Path
    source: Path
    names: tuple[str, ...] = ("m0", "m1", "m2")
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """Of a machine."""
        return "10.88.0.1" if name == LAPTOP else f"10.88.0.{10 + self.names.index(name)}"

    def __enter__(self) -> Machines:
        """Make the network and start all of them."""
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if os.geteuid() or missing:
            sys.exit(f"fake machines: {f'{missing[0]} is not installed' if missing else 'only root can make them'}")
        self._remove_network()
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "shared").mkdir(parents=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key"))
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "link", "set", BRIDGE, "up")
        try:
            for name in (LAPTOP, *self.names):
                self._start(name)
            for name in self.names:
                self._wait(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every process of theirs, and take the network down."""
        for process in self._processes.values():
            # Who unshares takes the machine's first process along, and the kernel all others.
            process.kill()
            process.wait()
        self._remove_network()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, name: str, command: str, limit_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a machine, from the source's folder on the laptop, else from home."""
        try:
            return subprocess.run(
                self.command(name, command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s
            )
        except subprocess.TimeoutExpired as late:
            out = (late.stdout or b"").decode(errors="replace")
            return subprocess.CompletedProcess(late.args, 124, out, f"took longer than {limit_s:g} s")

    def command(self, name: str, command: str) -> list[str]:
        """The host's command for a machine's."""
        home, start = str(Path.home()), str(self.source) if name == LAPTOP else str(Path.home())
        path = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        python_path = [f"PYTHONPATH={self.source}"] if name == LAPTOP else []
        return [
            "nsenter", "-t", str(self._first_process(name)), "-m", "-u", "-i", "-n", "-p", "-r", "-w",
            "env", "-i", f"HOME={home}", f"PATH={path}", "LANG=C.UTF-8", "TERM=dumb", *python_path,
            "bash", "-c", f"cd {shlex.quote(start)}; {command}",
        ]  # fmt: skip

    def home(self, name: str) -> Path:
        """A machine's home, as the host sees it."""
        return self.folder / name / "home"

    def processes(self, name: str, pattern: str) -> list[tuple[int, str]]:
        """Number and command line of a machine's processes whose command line has a pattern."""
        lines = self.run(name, f"pgrep -fa -- {shlex.quote(pattern)}").stdout.splitlines()
        found = [(int(line.split()[0]), line.split(" ", 1)[-1]) for line in lines]
        return [(number, line) for number, line in found if "pgrep" not in line]

    def kill(self, name: str, pattern: str) -> int:
        """SIGKILL to a machine's processes whose command line has a pattern; how many."""
        found = self.processes(name, pattern)
        self.run(name, "kill -9 " + " ".join(str(number) for number, _ in found))
        return len(found)

    def set_path(self, name: str, before: str = f"{sys.prefix}/bin", **more: str) -> None:
        """Have log-ins on a machine find a folder's programs first, and more in their environment."""
        settings = {**more, "PATH": f"{before}:$PATH"}
        (self.home(name) / ".bashrc").write_text("".join(f"export {key}={text}\n" for key, text in settings.items()))

    @contextmanager
    def full(self, name: str) -> Iterator[None]:
        """While the block runs, a machine's /tmp has no room left."""
        self.run(name, "cat /dev/zero > /tmp/full")
        try:
            yield
        finally:
            self.run(name, "rm /tmp/full")

    @contextmanager
    def silent(self, name: str) -> Iterator[None]:
        """While the block runs, nothing that a machine sends gets to the laptop, as behind a bad firewall."""
        route = f"route add blackhole {self.address(LAPTOP)}/32"
        _run("ip", "-n", f"lw-{name}", *route.split())
        try:
            yield
        finally:
            _run("ip", "-n", f"lw-{name}", *route.replace("add", "del").split())

    @contextmanager
    def unplugged(self, name: str) -> Iterator[None]:
        """While the block runs, a machine has no network."""
        _run("ip", "link", "set", f"lw-{name}-0", "down")
        try:
            yield
        finally:
            _run("ip", "link", "set", f"lw-{name}-0", "up")

    def _start(self, name: str) -> None:
        space, link = f"lw-{name}", f"lw-{name}-0"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", link, "master", BRIDGE, "up")
        _run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", space, "link", "set", device, "up")
        if name != LAPTOP:
            # Without a way out Ray would take 127.0.0.1 for the machine's address.
            _run("ip", "-n", space, "route", "add", "default", "via", self.address(LAPTOP))
        self._make_folders(name)
        script = self.folder / name / "start.sh"
        script.write_text("\n".join(["set -e", *self._mounts(name), *self._first_program(name)]) + "\n")
        with (self.folder / name / "log").open("wb") as log:
            own = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child")
            self._processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", space, "unshare", *own, "sh", str(script)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _make_folders(self, name: str) -> None:
        for folder in ("root", "home/.ssh", "tmp", "run/sshd"):
            (self.folder / name / folder).mkdir(parents=True)
        (self.folder / name / "tmp").chmod(0o1777)
        for folder in ("home", "home/.ssh"):
            (self.folder / name / folder).chmod(0o700)
        keys = self.home(name) / ".ssh"
        shutil.copy(self.folder / "key.pub", keys / "authorized_keys")
        if name == LAPTOP:
            shutil.copy(self.folder / "key", keys / "id_ed25519")
            (keys / "id_ed25519").chmod(0o600)
        self.set_path(name)
        (self.home(name) / ".bash_profile").write_text(". ~/.bashrc\n")

    def _mounts(self, name: str) -> list[str]:
        """The host's file system with a machine's own folders in it."""
        root, own = self.folder / name / "root", self.folder / name
        # The environment, and the interpreter that it was made of.
        kept = [sys.prefix, str(Path(sys.base_prefix))]
        hidden = [] if name == LAPTOP else sorted({str(self.source), *_installed_source()})
        lines = [f"hostname {name}", f"mount --rbind / {root}"]
        lines += [f"mount --bind {own}/{part} {root}{there}" for part, there in _places(self.folder / "shared")]
        lines += [f"mount -t tmpfs none {root}/dev/shm"]
        lines += [] if name == LAPTOP else [f"mount -t tmpfs -o size={TMP_SIZE},mode=1777 none {root}/tmp"]
        lines += [f"if [ -d {root}{path} ]; then mount -t tmpfs none {root}{path}; fi" for path in hidden]
        kept += [str(self.source)] if name == LAPTOP else []
        lines += [f"mkdir -p {root}{path}; mount --rbind {path} {root}{path}" for path in kept]
        return lines

    def _first_program(self, name: str) -> list[str]:
        program = "sleep infinity" if name == LAPTOP else SSHD
        return [f"exec chroot {self.folder / name / 'root'} {program}"]

    def _first_process(self, name: str) -> int:
        outer = self._processes[name].pid
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0])

    def _wait(self, name: str) -> None:
        """Until its sshd listens."""
        for _ in range(100):
            if self.run(LAPTOP, f"exec 3<>/dev/tcp/{self.address(name)}/22").returncode == 0:
                return
            time.sleep(0.2)
        sys.exit(f"fake machines: sshd of {name} does not start: {(self.folder / name / 'log').read_text().strip()}")

    def _remove_network(self) -> None:
        for name in (LAPTOP, *self.names):
            for words in (("link", "del", f"lw-{name}-0"), ("netns", "del", f"lw-{name}")):
                subprocess.run(["ip", *words], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", BRIDGE], stderr=subprocess.DEVNULL)


def _places(shared: Path) -> list[tuple[str, str]]:
    """Folders of a machine, and where they are mounted."""
    return [("home", str(Path.home())), ("tmp", "/tmp"), ("run", "/run"), (f"../{shared.name}", SHARED)]


def _installed_source() -> Sequence[str]:
    """Where an editable installation has its source, which nodes are not to see."""
    from importlib.metadata import distributions

    texts = [found.read_text("direct_url.json") for found in distributions(name="leworld")]
    urls = [json.loads(text)["url"] for text in texts if text]
    return [url.removeprefix("file://") for url in urls if url.startswith("file://")]


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"fake machines: {' '.join(words)}: {done.stderr.strip()}")
