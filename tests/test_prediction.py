"""The prediction loop: the order of the rows, what fits, and what it notes."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_training import classifier, rows_of
from torch import nn

from bdbench.engine import batches
from bdbench.engine.kernels import use_widened_linear
from bdbench.engine.prediction import predict
from bdbench.engine.trace import Trace


def test_predictions_come_in_the_order_of_the_rows(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    together = predict(model, rows, precision="fp32")
    for i in range(len(rows)):
        inputs, _ = rows.batch(torch.tensor([i]), torch.device("cpu"))
        with torch.inference_mode():
            assert torch.allclose(model(**inputs).logits[0], together[i], atol=1e-5)


def with_room_for(rows, model):
    """The model on a device that has room for this many rows at once."""

    def refuse(module, arguments, named):
        if len(named["input_ids"]) > rows:
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    return model


def test_predictions_that_do_not_fit_are_halved(tiny_bert):
    rows, model = rows_of(tiny_bert), classifier(tiny_bert)
    expected = predict(model, rows, precision="fp32")
    assert torch.allclose(predict(with_room_for(5, model), rows, precision="fp32"), expected, atol=1e-6)


def test_a_row_that_does_not_fit_by_itself_is_an_error(tiny_bert):
    with pytest.raises(torch.OutOfMemoryError):
        predict(with_room_for(0, classifier(tiny_bert)), rows_of(tiny_bert), precision="fp32")


@pytest.mark.parametrize("room", [50, 0])
def test_a_thread_that_begins_after_a_prediction_has_the_threads_of_before(room, tiny_bert):
    """Also after one that failed."""
    rows, model, before = rows_of(tiny_bert), with_room_for(room, classifier(tiny_bert)), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with contextlib.nullcontext() if room else pytest.raises(torch.OutOfMemoryError):
            predict(model, rows, precision="fp32")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_the_trace_counts_every_cut(tiny_bert):
    rows, model, trace = rows_of(tiny_bert), classifier(tiny_bert), Trace(halved_batches=10)
    predict(model, rows, precision="fp32", trace=trace)
    assert trace.halved_batches == 10
    # 50 rows are one batch; 50 = 2 * 25, 25 = 13 + 12, 13 = 7 + 6, 12 = 6 + 6, and 7 and 6 need one cut each: 16 parts
    predict(with_room_for(5, model), rows, precision="fp32", trace=trace)
    assert trace.halved_batches == 10 + 15


def test_the_trace_names_the_kernels_that_ran(tiny_bert):
    """No dropout: it drops nothing in a prediction."""
    rows, model = rows_of(tiny_bert), classifier(tiny_bert).train()
    plain, widened = Trace(), Trace(kernels={"dropout"})
    use_widened_linear(True)
    try:
        predict(model, rows, precision="fp32", trace=plain)
        predict(model, rows, precision="bf16", trace=widened)
    finally:
        use_widened_linear(None)
    assert plain.kernels == {"attention"} and not plain.seconds
    assert widened.kernels == {"attention", "dropout", "widened-linear"}  # what was there stays


def test_the_number_of_threads_changes_no_prediction(tiny_bert, monkeypatch):
    monkeypatch.setitem(batches.PIECES_AT_ONCE, "cpu", 64)
    rows, model, before = rows_of(tiny_bert), classifier(tiny_bert), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = predict(model, rows, precision="bf16")
        torch.set_num_threads(3)
        assert torch.equal(predict(model, rows, precision="bf16"), alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


class Merging(nn.Module):
    """As some adapters do: its weights are merged in evaluation mode, and apart in training mode."""

    def __init__(self):
        super().__init__()
        self.merged = False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)


@pytest.mark.parametrize("room", [50, 0])
def test_every_module_is_afterwards_in_its_own_mode(room, tiny_bert):
    """Also after a prediction that failed."""
    model = classifier(tiny_bert)
    model.adapter = Merging()
    model.train()
    model.bert.encoder.layer[1].eval()
    modes, seen = [module.training for module in model.modules()], []
    assert any(modes) and not all(modes)
    model.classifier.register_forward_hook(lambda *_: seen.append(any(module.training for module in model.modules())))
    with contextlib.nullcontext() if room else pytest.raises(torch.OutOfMemoryError):
        predict(with_room_for(room, model), rows_of(tiny_bert), precision="fp32")
    assert [module.training for module in model.modules()] == modes and not any(seen)
    assert not model.adapter.merged
