"""What plugin code does to the process ends with its own call: put back, and a failed cell where numbers hang on it."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from bdbench.errors import UsageError
from bdbench.fence import PluginFault, fenced, refusing
from bdbench.process_state import read_settings
from bdbench.random_state import RandomState


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@contextmanager
def process_as_it_was():
    """Fails if the block leaves a setting of the process changed."""
    before = read_settings()
    yield
    assert read_settings() == before


def leave_open(context) -> None:
    context.__enter__()
    LEFT_OPEN.append(context)


LEFT_OPEN: list = []


def hook_every_module() -> None:
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output)


def switch_newer_precision() -> None:
    torch.backends.fp32_precision = "tf32"


DECIDING = {
    "whether gradients are computed": lambda: torch.set_grad_enabled(False),
    "inference mode": lambda: leave_open(torch.inference_mode()),
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "the default device, by a block": lambda: leave_open(torch.device("meta")),
    "the number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "the float32 precision": lambda: torch.set_float32_matmul_precision("medium"),
    "the float32 precision, by allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "the flags of cuDNN or oneDNN": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "the attention kernels": lambda: torch.backends.cuda.enable_math_sdp(False),
    "autocast": lambda: leave_open(torch.autocast("cpu", dtype=torch.bfloat16)),
    "denormal numbers": lambda: torch.set_flush_denormal(True),
    "global hooks of modules or optimizers": hook_every_module,
}
if hasattr(torch.backends, "fp32_precision"):
    DECIDING["the float32 precision, by the newer flag"] = switch_newer_precision


@pytest.mark.parametrize("name", DECIDING)
def test_a_change_that_numbers_hang_on_is_put_back_and_named(name):
    said = f"'bends' changed .*{name.partition(',')[0]}.* for the whole process"
    with process_as_it_was(), pytest.raises(PluginFault, match=said), fenced("'bends'", 0):
        DECIDING[name]()
    assert torch.nn.Linear(2, 2)(torch.ones(2)).requires_grad and torch.get_autocast_dtype("cpu") == torch.bfloat16


def test_an_autocast_that_is_never_left_keeps_no_weights():
    """Else every later autocast would multiply by the weights of the first one."""
    layer = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(PluginFault), fenced("'bends'", 0):
        leave_open(torch.autocast("cpu", dtype=torch.bfloat16))
        layer(torch.ones(2))
    with torch.no_grad():
        layer.weight.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not layer(torch.ones(2)).any()


HARMLESS = {
    "folder": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update(HOME="elsewhere", BDBENCH_NEW="1"),
    "environment removed": lambda: os.environ.pop("HF_HUB_OFFLINE"),
    "path": lambda: sys.path.insert(0, "/nowhere"),
    "other path": lambda: setattr(sys, "path", []),
    "argv": lambda: sys.argv.append("--seed"),
    "streams": lambda: setattr(sys, "stderr", None),
    "signal": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "interrupt": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "alarm": lambda: signal.alarm(1),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "umask": lambda: os.umask(0o777),
    "warnings": lambda: warnings.simplefilter("error"),
    "logging": lambda: (logging.basicConfig(level=1, force=True), logging.disable()),
    "recursion": lambda: sys.setrecursionlimit(20_000),
    "collector": gc.disable,
    "numpy": lambda: np.seterr(all="raise"),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_any_other_change_is_put_back(change):
    with process_as_it_was(), fenced("'moves'", 0):
        change()


@pytest.mark.parametrize("change", [DECIDING["the default dtype"], HARMLESS["folder"]], ids=["dtype", "folder"])
def test_what_ends_in_an_exception_is_put_back_and_the_exception_passes(change):
    with process_as_it_was(), pytest.raises(ZeroDivisionError), fenced("'breaks'", 0):
        change()
        _ = 1 / 0


class Unusual(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(), r"'quits' called sys.exit\(None\)"),
        (SystemExit("no GPU found"), r"called sys.exit\('no GPU found'\)"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt, but nobody interrupted the run"),
        (GeneratorExit(), "raised GeneratorExit"),
        (Unusual("words"), r"raised Unusual \(words\)"),
    ],
    ids=["exit", "exit with words", "interrupt", "generator", "other"],
)
def test_what_would_end_the_run_is_an_ordinary_error(error, said):
    with process_as_it_was(), pytest.raises(PluginFault, match=said), fenced("'quits'", 0):
        raise error


@pytest.fixture
def heeds_interrupts():
    """Python's own handler is in place: a process that was started in the background ignores the signal."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.parametrize("swallowed", [False, True])
def test_the_users_own_interrupt_passes_even_if_the_plugin_swallows_it(swallowed, heeds_interrupts):
    with process_as_it_was(), pytest.raises(KeyboardInterrupt), fenced("'holds on'", 0):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if not swallowed:
                raise


def draws() -> list[float]:
    return [random.random(), float(np.random.normal()), float(torch.rand(())), torch.nn.Linear(1, 1).weight.item()]


def test_global_random_states_follow_from_the_seed_and_are_put_back():
    np.random.normal()  # leaves the second number of the pair behind
    state = RandomState.read()
    drawn = []
    for seed in (1, 1, 2):
        with fenced("'draws'", seed):
            drawn.append(draws())
    assert drawn[0] == drawn[1] and not set(drawn[0]) & set(drawn[2])
    after = RandomState.read()
    assert torch.equal(after.torch, state.torch) and after.python == state.python
    assert after.bit_generator is state.bit_generator and str(after.numpy) == str(state.numpy)


def seed_and_put_back() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)


@pytest.mark.parametrize(
    ("seeding", "said"),
    [
        (lambda: random.seed(0), "of random anew"),
        (lambda: np.random.seed(0), "of numpy.random anew"),
        (lambda: torch.manual_seed(0), "of torch anew"),
        (seed_and_put_back, None),
    ],
    ids=["random", "numpy", "torch", "torch put back"],
)
def test_seeding_a_global_random_state_anew_is_named_but_not_at_import(seeding, said):
    with fenced("'seeds'", 0, importing=True):
        seeding()
    if said is None:
        with fenced("'seeds'", 0):
            seeding()
    else:
        with pytest.raises(PluginFault, match=said), fenced("'seeds'", 0):
            seeding()
            draws()


def test_what_a_plugin_prints_goes_to_standard_error(capfd):
    print("before")
    with fenced("'talks'", 0):
        print("from Python")
        sys.stdout.write("from a stream\n")
        subprocess.run(["echo", "from a program"], check=True)
    print("after")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert all(words in err for words in ("from Python", "from a stream", "from a program"))


def test_threads_that_are_left_running_are_warned_of():
    end = threading.Event()
    with pytest.warns(UserWarning, match="'spins' left threads running.*: spinning"), fenced("'spins'", 0):
        threading.Thread(target=end.wait, name="spinning").start()
    end.set()


def test_threads_that_are_ending_are_not():
    """As transformers' when it has loaded weights."""
    with warnings.catch_warnings(action="error"), fenced("'loads'", 0):
        pool = ThreadPoolExecutor(2)
        for _ in range(2):
            pool.submit(time.sleep, 0.05)
        pool.shutdown(wait=False)
        assert any(thread.is_alive() for thread in pool._threads)


def test_plugin_code_sees_its_own_name_as_the_command_line():
    with fenced("'reads'", 0):
        assert sys.argv == ["'reads'"]


def test_while_a_run_is_planned_everything_is_bad_input_in_one_line(capsys):
    def fails() -> None:
        print("to standard output")
        raise ValueError("two\nlines")

    with pytest.raises(UsageError, match="'checks': fails to run: ValueError: two lines$"), refusing("'checks'"):
        fails()
    assert capsys.readouterr() == ("", "")
    with refusing("'checks'"):
        print("kept")
    assert capsys.readouterr() == ("", "kept\n")
