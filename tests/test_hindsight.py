"""What a trial would have advised on archived runs, beside their full runs."""

from tttnn.analysis.hindsight import MODELS, hindsight


def test_full_runs_end_within_the_advice_and_never_on_the_other_side():
    found = hindsight()
    assert len(found) == len(MODELS) * 7 * 3 * 3
    assert found["held"].mean() > 0.95 and not found["opposite"].any()
    assert found["held_alone"].mean() < 0.75, "more steps bring more: the trial's own interval does not know that"
    assert found["held_resampled"].mean() < 0.6
    most = found[(found["k"] == 20)]
    assert most["held"].all(), "where only chunks were left out"
