"""The order of a run's data."""

from endomatch_ros.fitting.batches import Batches, training_loader


def test_pairs_are_shared_out_without_gaps_or_repeats():
    whole = [k for batch in Batches(0, 5, 6) for k in batch]
    parts = [list(Batches(0, 5, 3, rank, 2)) for rank in (0, 1)]
    assert [k for a, b in zip(*parts, strict=True) for k in a + b] == whole == list(range(30))
    assert [k for batch in Batches(3, 5, 6) for k in batch] == whole[18:]
    assert len(Batches(3, 5, 6)) == 5


def test_workers_and_a_late_start_do_not_change_the_order():
    pairs = {k: k for k in range(30)}
    whole = [batch.tolist() for batch in training_loader(pairs, Batches(0, 5, 6), workers=0)]
    assert [batch.tolist() for batch in training_loader(pairs, Batches(0, 5, 6), workers=2)] == whole
    assert [batch.tolist() for batch in training_loader(pairs, Batches(3, 5, 6), workers=2)] == whole[3:]
