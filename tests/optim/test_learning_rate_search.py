"""What a curve says, and how it is drawn."""

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import MissingDependencyError
from metronorm.optim import (
    LearningRateSearch,
    find_learning_rate,
    windows,
)
from tests.optim.searches import (
    Bowl,
    blank,
    height,
    regression,
    squared_error,
)


def test_nothing_is_suggested_where_nothing_fell() -> None:
    model, batches = regression(400, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    source = windows(batches, 4, len)
    search = find_learning_rate(model, optimizer, source, squared_error, lowest=1e-12, highest=1e-9)
    assert search.suggestion is None
    assert search.steepest is None
    assert search.diverged_at is None
    assert len(search.reasons) == 1


def test_nothing_is_suggested_where_it_rises_from_the_first() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = find_learning_rate(model, optimizer, blank(), height, lowest=3.0, highest=1e4)
    assert len(search.losses) < 10  # fewer than it takes without divergence
    assert search.suggestion is None
    assert search.diverged_at == search.learning_rates[0]
    assert search.reasons == (
        "the loss is lowest at 3.0e+00, among the first tried",
        "it diverges from 3.0e+00 on",
    )


def test_losses_may_be_negative() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return height(model, batch) - 50 * len(batch)

    search = find_learning_rate(model, optimizer, blank(), loss, highest=1e3)
    assert max(search.losses[:50]) < 0
    assert len(search.losses) > 70
    assert 1e-3 < search.suggestion < 1.0
    assert 2 <= search.diverged_at < 100  # at first too little to be seen beside 50


def bowl_search(**options: Any) -> LearningRateSearch:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return find_learning_rate(model, optimizer, blank(), height, highest=1e3, **options)


def test_the_figure_shows_the_numbers() -> None:
    pytest.importorskip("plotly")
    search = bowl_search()
    figure = search.figure()
    raw, smoothed, *marks = figure.data
    assert list(raw.x) == list(smoothed.x) == search.learning_rates
    assert list(raw.y) == search.losses
    assert list(smoothed.y) == search.smoothed
    shown = {mark.name.partition(":")[0]: mark.x[0] for mark in marks}
    assert shown == {
        "suggestion": search.suggestion,
        "steepest": search.steepest,
        "minimum": search.minimum,
        "diverged at": search.diverged_at,
    }
    for mark in marks:
        assert mark.mode == "markers"
        assert f"{mark.x[0]:.1e}" in mark.name
        assert mark.y[0] in search.smoothed
    layout = figure.layout
    assert layout.xaxis.type == "log"
    assert layout.title.text
    assert layout.xaxis.title.text == "learning rate (per tick)"
    assert layout.yaxis.title.text == "loss (per token)"
    low, high = layout.yaxis.range
    assert low < min(search.losses) < search.losses[0] < high < max(search.losses)
    assert '"type":"log"' in figure.to_json()


def test_a_figure_without_a_suggestion() -> None:
    pytest.importorskip("plotly")
    search = bowl_search(lowest=5.0)
    assert search.suggestion is None
    assert {mark.name.partition(":")[0] for mark in search.figure().data[2:]} == {
        "minimum",
        "diverged at",
    }
    flat = LearningRateSearch([1.0], [2.0], [2.0], None, None, 1.0, None, ())
    low, high = flat.figure().layout.yaxis.range
    assert low < 2 < high


def test_a_figure_needs_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    search = bowl_search()
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "plotly.graph_objects", raising=False)
    with pytest.raises(MissingDependencyError, match=r"plotly.*metronorm\[analysis\]"):
        search.figure()


def test_a_search_is_what_it_is() -> None:
    search = bowl_search()
    with pytest.raises(AttributeError):
        search.suggestion = 1.0
    assert copy.deepcopy(search) == search
