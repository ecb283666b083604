"""Devices by name, and precisions."""

import pytest
import torch

from bdbench.engine.precision import DEVICES, PRECISIONS, native_precision, torch_device
from bdbench.errors import UsageError


@pytest.mark.parametrize(("has_gpu", "types"), [(True, ["cuda", "cpu", "cuda"]), (False, ["cpu", "cpu"])])
def test_devices_by_name(has_gpu, types, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert [torch_device(name).type for name, _ in zip(DEVICES, types, strict=False)] == types


def test_a_device_that_is_unknown_or_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device tpu is not one of auto, cpu, cuda"):
        torch_device("tpu")
    with pytest.raises(UsageError, match="--device cuda: torch finds no GPU here; use --device cpu, or auto"):
        torch_device("cuda")


@pytest.mark.parametrize(("vectors", "tiles"), [(False, False), (True, False), (False, True)])
def test_the_native_precision_of_a_cpu_is_bf16_where_it_has_instructions_for_it(vectors, tiles, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    precision = native_precision(torch.device("cpu"))
    assert precision == ("bf16" if vectors or tiles else "fp32") and precision in PRECISIONS
