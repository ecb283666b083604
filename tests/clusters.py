"""Real Ray clusters on this machine: raylets with temporary folders of their own."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


class Cluster:
    """A head and further nodes, each a group of processes; `environment` is what a driver needs to join (its token)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # A process knows one token all its life, so a test that joins has the cluster's for whatever it starts later.
        token = os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        self.environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        self.environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        # a node that is killed is missed after 3 seconds, not after 15
        self.environment |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self.nodes: list[subprocess.Popen] = []

    def add(self, *flags: str, command: tuple[str, ...] = ()) -> subprocess.Popen:
        """Start a node with one core, and wait until it is there; `command` comes before `ray start`."""
        number = len(self.nodes)
        folder = self.root / f"n{number}"  # short: sockets lie in it
        folder.mkdir(parents=True)
        where = (
            ["--address", self.address] if self.nodes else ["--head", "--port", str(self._port), "--include-dashboard=false"]
        )
        start = ["start", *where, "--block", "--num-cpus", "1", "--temp-dir", str(folder), "--object-store-memory", "100000000"]
        node = subprocess.Popen(
            [*command, sys.executable, "-m", "ray.scripts.scripts", *start, *flags],
            cwd=folder,
            env={**self.environment, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.nodes.append(node)
        shown = []
        for line in node.stdout:
            shown.append(line)
            if "Ray runtime started" in line:
                return node
        raise RuntimeError("".join(shown))

    @staticmethod
    def kill(node: subprocess.Popen) -> None:
        """End a node at once, with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.stdout.close()
        node.wait()

    def close(self) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
