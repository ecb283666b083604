"""What `bdbench doctor` looks at: whether this machine can run bdbench, and what is missing. It changes and trains nothing.

Each check is by itself: one that fails says so in its own line, and the rest goes on.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

import bdbench
from bdbench.engine.bundled import BUNDLED_MODELS, cache_folder, is_installed
from bdbench.errors import UsageError, first_line
from bdbench.registry import ATTACKS, DEFENSES, TASKS

State = Literal["ok", "warning", "missing"]
HUB = "https://huggingface.co"
HUB_SECONDS = 2.0
OLDEST_PYTHON = (3, 11)
VICTIM_BYTES = 100 * 10**6  # of the bundled model
FEW_VICTIMS = 20
OF_DEVELOPERS = ("test", "perf")  # extras that nobody needs to run cells
USES = {  # of the extras
    "bundled": "the model 'bundled', which the presets quick and laptop use",
    "base": "the model 'bundled-base', which the preset paper-base uses",
    "tune": "bdbench tune with its default searcher",
    "cluster": "the defense cube",
    "figures": "the figures of bdbench report",
    "lm": "language models for the defense onion",
}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it stands, what was found, and what to do about it, if anything.

    "missing" is what a run needs, a "warning" what it does without.
    """

    check: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Look:
    """What to look at: the folder of results, the address of the hub, and whether Ray is to be started once."""

    folder: Path
    hub: str = HUB
    hub_seconds: float = HUB_SECONDS
    start_ray: bool = False


def examine(look: Look) -> Iterator[Finding]:
    """The findings, one after another as they are made; whatever a check raises is one of them."""
    checks: dict[str, Callable[[Look], Iterable[Finding]]] = {
        "bdbench": _bdbench,
        "python": _python,
        "libraries": _libraries,
        "cores": _cores,
        "memory": _memory,
        "precision": _precision,
        "gpu": _gpu,
        "ray": _ray,
        "disk": _disk,
        "cache": _cache,
        "models": _models,
        "hub": _hub,
        "extras": _extras,
        "plugins": _plugins,
    }
    for name, check in checks.items():
        try:
            yield from check(look)
        except Exception as error:  # a broken installation raises anything
            yield Finding(
                name, "missing", f"cannot be told: {first_line(error)}", "install bdbench anew, in a fresh environment"
            )


def can_run(findings: Iterable[Finding]) -> bool:
    """Whether nothing is missing that a run needs."""
    return all(finding.state != "missing" for finding in findings)


def _bdbench(look: Look) -> Iterable[Finding]:
    return [Finding("bdbench", "ok", f"{bdbench.__version__} in {Path(bdbench.__file__).parent}")]


def _python(look: Look) -> Iterable[Finding]:
    found = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info < OLDEST_PYTHON:
        return [Finding("python", "missing", found, "install Python 3.11 or newer, and bdbench into it")]
    return [Finding("python", "ok", found)]


def _libraries(look: Look) -> Iterable[Finding]:
    needed = [requirement for requirement in _requirements() if _extra_of(requirement) is None]
    unmet = [words for requirement in needed if (words := _unmet(requirement))]
    if unmet:
        return [Finding("libraries", "missing", "; ".join(unmet), "pip install -c constraints.txt -e .")]
    return [Finding("libraries", "ok", ", ".join(f"{each.name} {version(each.name)}" for each in needed))]


def _cores(look: Look) -> Iterable[Finding]:
    from bdbench.protocol.quotas import cores

    return [Finding("cores", "ok", f"{cores()} of {os.cpu_count()} may be used")]


def _memory(look: Look) -> Iterable[Finding]:
    from bdbench.matrix.capacity import WORKER_BYTES, free_bytes
    from bdbench.protocol.quotas import memory_limits

    free = free_bytes(memory_limits())
    if free is None:
        return [Finding("memory", "warning", "the system does not say", "choose --workers by yourself")]
    found = f"{free / 2**30:.1f} GiB are free for workers; one takes 1.5 with the bundled model, 3.5 at base size"
    if free < WORKER_BYTES:
        return [Finding("memory", "warning", found, "close other programs, or run with --workers 1 and a smaller --model")]
    return [Finding("memory", "ok", found)]


def _precision(look: Look) -> Iterable[Finding]:
    import torch

    from bdbench.engine.kernels import widening_pays
    from bdbench.engine.precision import native_precision

    if native_precision(torch.device("cpu")) == "fp32":
        found = "the processor has no bf16 instructions"
        return [Finding("precision", "warning", found, "nothing: runs compute in float32 here, which takes longer")]
    how = "multiplied in float32, which is faster here" if widening_pays() else "multiplied in hardware"
    return [Finding("precision", "ok", f"bf16 on the CPU, {how}")]


def _gpu(look: Look) -> Iterable[Finding]:
    import torch

    from bdbench.engine.precision import native_precision

    if not torch.cuda.is_available():
        if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists():
            found = f"there is one, but PyTorch {torch.__version__} cannot use it"
            return [Finding("gpu", "warning", found, "install a PyTorch for this GPU (pytorch.org), and check its driver")]
        return [Finding("gpu", "ok", "none; everything runs on the CPU")]
    findings = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        precision = native_precision(torch.device("cuda", number))
        findings.append(Finding("gpu", "ok", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {precision}"))
    return findings


def _ray(look: Look) -> Iterable[Finding]:
    if importlib.util.find_spec("ray") is None:
        return [Finding("ray", "missing", "not installed", "pip install 'ray[tune]', or run with --inline")]
    from bdbench.matrix.ray_start import ray_started, short_folder

    found = version("ray")
    try:
        short_folder().rmdir()  # where its sockets would lie
        if look.start_ray:
            with ray_started(cpus=1, gpus=0):
                found += ", started and ended"
    except UsageError as error:
        return [Finding("ray", "warning", f"{found}: {error}", "run with --inline, which does without it")]
    return [Finding("ray", "ok", found if look.start_ray else f"{found}; --start-ray tries whether it starts")]


def _disk(look: Look) -> Iterable[Finding]:
    folder = next(folder for folder in (look.folder, *look.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    found = f"{free / 10**9:.1f} GB free for results in {look.folder}"
    if not os.access(folder, os.W_OK):
        return [Finding("disk", "warning", f"{folder} cannot be written to", "run elsewhere, or with --out and --victims")]
    if free < FEW_VICTIMS * VICTIM_BYTES:
        advice = "make room, or keep victims elsewhere with --victims: one takes 90 MB with the bundled model, 440 at base size"
        return [Finding("disk", "warning", found, advice)]
    return [Finding("disk", "ok", found)]


def _cache(look: Look) -> Iterable[Finding]:
    try:
        home = cache_folder("bundled-base")
    except UsageError as error:
        return [Finding("cache", "warning", str(error), "set XDG_CACHE_HOME to a folder")]
    folder = next(folder for folder in (home, *home.parents) if folder.is_dir())
    if not os.access(folder, os.W_OK):
        return [Finding("cache", "warning", f"{folder} cannot be written to", "set XDG_CACHE_HOME to a folder that can be")]
    return [Finding("cache", "ok", f"{home}, {shutil.disk_usage(folder).free / 10**9:.1f} GB free")]


def _models(look: Look) -> Iterable[Finding]:
    for name, model in BUNDLED_MODELS.items():
        if is_installed(name):
            yield Finding("models", "ok", f"{name} is here")
        else:
            yield Finding("models", "warning", f"{name} is not here", _install(model.extra) + ", or use --model DIR")


def _hub(look: Look) -> Iterable[Finding]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        advice = "nothing for --data builtin or DIR; unset HF_HUB_OFFLINE for --data hub and models by id"
        return [Finding("hub", "warning", "HF_HUB_OFFLINE is set: only what is cached is used", advice)]
    address = os.environ.get("HF_ENDPOINT", look.hub)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=look.hub_seconds):
            pass
    except urllib.error.HTTPError:  # it answers
        pass
    except (OSError, ValueError) as error:
        advice = "nothing for --data builtin or DIR and a bundled model; else check the network and its proxy"
        return [Finding("hub", "warning", f"{address} is not reachable ({first_line(error)})", advice)]
    return [Finding("hub", "ok", f"{address} answers")]


def _extras(look: Look) -> Iterable[Finding]:
    for extra, use in USES.items():
        unmet = [words for each in _requirements() if _extra_of(each) == extra and (words := _unmet(each))]
        if not unmet:
            yield Finding("extras", "ok", f"{extra}: {use}")
        elif extra not in {model.extra for model in BUNDLED_MODELS.values()}:  # those are among the models
            yield Finding("extras", "warning", f"{extra}: {'; '.join(unmet)}", f"{_install(extra)}, for {use}")


def _plugins(look: Look) -> Iterable[Finding]:
    for registry in (ATTACKS, DEFENSES, TASKS):
        for name in registry.names():
            try:
                registry.get(name)
            except Exception as error:
                advice = "mend or uninstall it; everything else works without it"
                yield Finding("plugins", "warning", f"{registry.kind}: {name}: {first_line(error)}", advice)
    known = ", ".join(f"{len(registry.names())} {registry.kind}" for registry in (ATTACKS, DEFENSES, TASKS))
    yield Finding("plugins", "ok", known)


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in requires("bdbench") or ()]


def _extra_of(requirement: Requirement) -> str | None:
    """The extra that a requirement is of."""
    match = re.search(r"extra == ['\"]([^'\"]+)", str(requirement.marker or ""))
    return match[1] if match else None


def _unmet(requirement: Requirement) -> str | None:
    """What is wrong with an installed library: "ray is not installed", "torch 2.1 is not >=2.6"."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(installed, prereleases=True):
        return f"{requirement.name} {installed} is not {requirement.specifier}"
    return None


def _install(extra: str) -> str:
    return f"pip install -c constraints.txt -e '.[{extra}]'"
