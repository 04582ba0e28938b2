"""Numbers as people read them."""

from __future__ import annotations

import pytest

from trainer.common import formatting
from trainer.experiments.table import shown


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formatting.size(1_234_567), "1.23 MB"),
        (formatting.size(999_600), "1.00 MB"),
        (formatting.size(12_345), "12.3 kB"),
        (formatting.size(9.999e9), "10.0 GB"),
        (formatting.size(512), "512 B"),
        (formatting.size(None), "–"),
        (formatting.count(55_705_600), "55.7 M"),
        (formatting.count(512), "512"),
        (formatting.percent(0.0123), "1.23 %"),
        (formatting.percent(0.714), "71 %"),
        (formatting.percent(0.996), "99.6 %"),
        (formatting.percent(1), "100 %"),
        (formatting.percent(0.00001), "< 0.01 %"),
        (formatting.percent(0), "0 %"),
        (formatting.duration(0.42), "0.4 s"),
        (formatting.duration(59.4), "59 s"),
        (formatting.duration(59.6), "1 min 0 s"),
        (formatting.duration(95), "1 min 35 s"),
        (formatting.duration(3599.7), "1 h 0 min"),
        (formatting.duration(3725), "1 h 2 min"),
        (formatting.duration(float("nan")), "–"),
        (formatting.loss(1.948), "1.9480"),
        (formatting.loss(0.00002), "2e-5"),
        (formatting.loss(12_345.6), "12,346"),
        (formatting.loss(float("inf")), "–"),
        (formatting.learning_rate(7.8125e-05), "7.81e-5"),
        (formatting.learning_rate(0.0001), "1e-4"),
        (formatting.learning_rate(0.0), "0"),
        (shown("memory", 1_234_567), "1.23 MB"),
        (shown("elapsed", 95), "1 min 35 s"),
        (shown("perplexity", 7.0149), "7.01"),
    ],
)
def test_a_number_reads_so(written: str, expected: str) -> None:
    assert written == expected
