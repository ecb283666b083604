"""Which rows go into which batch: what is visited, what is cut where."""

import numpy as np
import torch

from bdbench.engine.batches import shuffled_batches, split_by_length, split_by_padding, split_for_memory


def test_every_epoch_visits_every_row_once_in_batches_of_similar_length():
    lengths = torch.tensor(np.random.default_rng(0).integers(1, 60, 1000))
    batches = list(shuffled_batches(lengths, 2, 16, torch.Generator().manual_seed(0)))
    half = len(batches) // 2
    for epoch in (batches[:half], batches[half:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(1000))
        padded = sum(len(batch) * int(lengths[batch].max()) for batch in epoch)
        assert padded < 1.1 * int(lengths.sum())
    assert [batch.tolist() for batch in batches[:half]] != [batch.tolist() for batch in batches[half:]]
    longest = torch.tensor([int(lengths[batch].max()) for batch in batches[:half]])
    assert not torch.equal(longest, longest.sort().values)  # short texts do not come first


def test_rows_are_cut_where_padding_costs_more_than_a_pass():
    lengths = torch.tensor([9, 2, 2, 3, 10])
    batch_rows = torch.tensor([1, 2, 3, 0, 4])  # in order of length: 2, 2, 3, 9, 10
    # cutting behind the third row saves 3 * (10 - 3) = 21 pieces, more than anywhere else; then 2 * (3 - 2) and 1 * (10 - 9)
    assert [part.tolist() for part in split_by_padding(batch_rows, lengths, 20)] == [[1, 2, 3], [0, 4]]
    assert [part.tolist() for part in split_by_padding(batch_rows, lengths, 1)] == [[1, 2], [3], [0, 4]]
    assert [part.tolist() for part in split_by_padding(batch_rows, lengths, 21)] == [batch_rows.tolist()]
    assert [part.tolist() for part in split_by_padding(batch_rows[:1], lengths, 0)] == [[1]]


def test_parts_are_halved_as_often_as_memory_wants_down_to_single_rows():
    parts = [torch.arange(5), torch.tensor([7])]
    assert [part.tolist() for part in split_for_memory(parts, 0)] == [[0, 1, 2, 3, 4], [7]]
    assert [part.tolist() for part in split_for_memory(parts, 1)] == [[0, 1, 2], [3, 4], [7]]
    assert [part.tolist() for part in split_for_memory(parts, 3)] == [[0], [1], [2], [3], [4], [7]]


def test_batches_of_predictions_hold_a_number_of_pieces():
    # 3 rows padded to 4 pieces are 12; a fourth, padded to 5, would make 20; a row over the limit goes by itself
    assert split_by_length([3, 4, 4, 5, 5, 30], 12) == [slice(0, 3), slice(3, 5), slice(5, 6)]
