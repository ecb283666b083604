"""How far a loop is, as another thread sees it."""

import threading

import pytest
import torch
from test_losses import context, ordinary, some_texts
from test_training import classifier, rows_of

from bdbench.engine import meter
from bdbench.engine.meter import EVALUATION, TRAINING, Progress, advance, counted, current
from bdbench.engine.prediction import predict
from bdbench.engine.training import Recipe, train


@pytest.fixture(autouse=True)
def fresh():
    meter.clear()
    yield
    meter.clear()


def seen() -> str:
    return str(current())


def test_a_loop_within_another_is_shown_while_it_lasts_and_the_outer_goes_on_with_its_number():
    assert current() is None
    advance(TRAINING, 0, 2800)
    advance(TRAINING, 1200, 2800)
    assert seen() == "training 1,200 of 2,800 steps"
    assert [seen() for _ in counted(EVALUATION, "ab", 2)] == ["evaluation 1 of 2 batches", "evaluation 2 of 2 batches"]
    advance(TRAINING, 1201, 2800)
    assert (current().done, current().number) == (1201, 1)
    for _ in range(2):
        advance(TRAINING, 0, 200)
    advance(TRAINING, 40, 200)
    assert seen() == "training 3: 40 of 200 steps"
    meter.clear()
    advance(TRAINING, 5, 10)  # of a loop whose beginning was forgotten
    assert seen() == "training 5 of 10 steps"


def test_the_time_that_a_loop_still_takes_by_hand():
    assert Progress(TRAINING, 10, 40, 1, seconds=5.0).seconds_left == 15.0
    assert Progress(TRAINING, 0, 40, 1, seconds=5.0).seconds_left is None


def test_the_seconds_of_a_loop_begin_with_it(monkeypatch):
    now = iter([100.0, 103.0, 200.0, 201.5])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(now))
    advance(TRAINING, 0, 3)
    advance(TRAINING, 1, 3)
    assert current().seconds == 3.0
    advance(TRAINING, 0, 3)
    assert current().seconds == 1.5


def test_both_loops_say_each_of_their_units_and_a_loss_that_predicts_does_not_lose_count(tiny_bert):
    said, model, texts = [], classifier(tiny_bert), some_texts(20)
    inner_rows = context(tiny_bert).encode(texts)

    def loss(model, inputs, labels):
        said.append(seen())
        if len(said) == 2:
            predict(model, inner_rows, precision="fp32")
            said.append(seen())
        return ordinary(model, inputs, labels)

    train(model, rows_of(tiny_bert, 20), Recipe(epochs=2, batch_size=8), seed=0, precision="fp32", loss=loss)
    steps = [f"training {done} of 6 steps" for done in range(6)]
    assert said == [*steps[:2], "evaluation 1 of 1 batches", *steps[2:]]
    assert seen() == "training 6 of 6 steps"


@pytest.mark.parametrize("threads", [1, 2])
def test_another_thread_sees_a_prediction_on_its_way(tiny_bert, threads, monkeypatch):
    monkeypatch.setitem(predict.__globals__["PIECES_AT_ONCE"], "cpu", 32)
    model, before, halfway, watched = classifier(tiny_bert), torch.get_num_threads(), threading.Event(), []

    def watch():
        halfway.wait(60)
        watched.append(current())

    class Slow(torch.nn.Module):
        """Holds up the last batch until the watcher has looked."""

        def __init__(self):
            super().__init__()
            self.inner, self.calls = model, 0

        def forward(self, **inputs):
            self.calls += 1
            if self.calls > threads + 2:
                halfway.set()
                watcher.join()
            return self.inner(**inputs)

    watcher = threading.Thread(target=watch)
    watcher.start()
    torch.set_num_threads(threads)
    try:
        predict(Slow(), rows_of(tiny_bert, 40), precision="fp32")
    finally:
        torch.set_num_threads(before)
    total = current().total
    assert current().done == total > threads + 2 and 0 <= watched[0].done < total and watched[0].what == EVALUATION
