"""`bdbench doctor` looks at this machine as it is, and at a hub that does not answer."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from extras import BUNDLED, needs

from bdbench.api.doctor import Finding, Look, can_run, examine
from bdbench.protocol.quotas import cores


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The findings by check. The hub is a closed port of this machine unless another address is given."""
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"

    def look(**facts) -> dict[str, list[Finding]]:
        findings: dict[str, list[Finding]] = {}
        for finding in examine(Look(**{"folder": tmp_path / "results", "hub": closed} | facts)):
            findings.setdefault(finding.check, []).append(finding)
        return findings

    return look


@needs(BUNDLED)
def test_it_says_what_is_here(found):
    findings = found()
    assert {
        finding.state for check in ("bdbench", "python", "libraries", "cores", "gpu", "disk") for finding in findings[check]
    } == {"ok"}
    assert f"torch {version('torch')}" in findings["libraries"][0].found
    assert findings["cores"][0].found.startswith(f"{cores()} of ")
    assert version("ray") in findings["ray"][0].found
    assert [finding.state for finding in findings["models"] if finding.found == "bundled is here"] == ["ok"]
    assert findings["plugins"][-1].found.endswith("tasks")
    everything = [finding for of_check in findings.values() for finding in of_check]
    assert can_run(everything) and all(finding.advice for finding in everything if finding.state != "ok")
    assert not can_run([*everything, Finding("python", "missing", "3.9")])


def test_a_hub_that_does_not_answer_or_answers_late_is_a_warning_and_one_that_answers_is_none(found, monkeypatch):
    (finding,) = found()["hub"]
    assert finding.state == "warning" and "not reachable" in finding.found
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        began = time.monotonic()
        (finding,) = found(hub=f"http://127.0.0.1:{silent.getsockname()[1]}", hub_seconds=0.2)["hub"]
    assert finding.state == "warning" and time.monotonic() - began < 20
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:  # 501 to all
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (finding,) = found(hub=f"http://127.0.0.1:{server.server_port}")["hub"]
        server.shutdown()
    assert (finding.state, finding.found.endswith(" answers")) == ("ok", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in found()["hub"][0].found


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(found, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bdbench.protocol.quotas", None)  # as in a broken installation
    findings = found()
    assert findings["memory"][0].state == "missing" and "cannot be told" in findings["memory"][0].found
    assert findings["plugins"] and findings["extras"]
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "x"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing" / "yet"))
    findings = found()
    assert findings["cache"][0].state == "ok" and str(tmp_path) in findings["cache"][0].found
    assert not (tmp_path / "nothing").exists() and not (tmp_path / "results").exists()


def test_the_command_prints_a_table_or_json(in_process):
    shown = in_process("doctor")
    assert shown.returncode == 0 and "what to do" in shown.stdout and "HF_HUB_OFFLINE" in shown.stdout
    listed = json.loads(in_process("doctor", "--json", "--out", Path("elsewhere")).stdout)
    assert {frozenset(each) for each in listed} == {frozenset({"check", "state", "found", "advice"})}
    assert any(each["check"] == "disk" and each["found"].endswith("elsewhere") for each in listed)
