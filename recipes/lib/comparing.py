"""Rank by runs of a recommender, and by recommenders that need no training, user by user."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lib.ranking import gains, hits, paired_bootstrap, places
from lib.recommending import METHODS, chosen
from lib.results import add
from lib.sequences import held_out
from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.clock import read_run_info
from metronorm.data import movielens_100k
from metronorm.errors import ConfigError, MetronormError
from metronorm.runs import open_run, summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from metronorm.data.interactions import Interactions

SHOWN = ("norm", "width", "blocks", "heads", "length", "dropout", "ticks")
SAME = (*SHOWN, "batch_size", "optimizer", "folder")
MEASURES: dict[str, Callable[[Tensor], Tensor]] = {"hr_10": hits, "ndcg_10": gains}


def compare(net: Callable[[Any, int], nn.Module], scored: Callable[..., Any]) -> int:
    """The command: rank for the test with the last weights of each run, and with every method.

    Args:
        net: makes the model of a run's config, for so many items.
        scored: scores, targets and what was seen, of a model and a batch.

    Returns:
        The exit code: 0, or 2 after an error, which is printed.
    """
    parser = ArgumentParser(prog="recommender.py compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--publish", action="store_true", help="add a row to the recipe's figures")
    arguments = parser.parse_args(sys.argv[2:])
    try:
        configs = [read_run_info(run).config for run in arguments.runs]
        _check_same(configs)
        data = movielens_100k(configs[0]["folder"] or None)
        ours = [
            found_by(net(SimpleNamespace(**config), len(data.titles)), run, data, config, scored)
            for run, config in zip(arguments.runs, configs, strict=True)
        ]
        row = {name: configs[0][name] for name in SHOWN}
        row |= {"runs": len(ours), "tied": data.tied}
        phases = summarize(open_run(arguments.runs[0]), curves=False).phases
        row |= {f"share_of_{phase}": share for phase, share in phases.items()}
        row |= figures(torch.stack(ours), {name: without(name, data) for name in METHODS})
        if arguments.publish:
            add("recommender", arguments.runs[0], row)
    except MetronormError as error:
        print(f"recommender: {error}", file=sys.stderr)
        return 2
    for name, value in row.items():
        print(f"{name:28} {value:.4f}" if isinstance(value, float) else f"{name:28} {value}")
    return 0


def _check_same(configs: list[dict[str, Any]]) -> None:
    for name in SAME:
        values = {str(config.get(name)) for config in configs}
        if len(values) > 1:
            raise ConfigError(
                "runs that are compared together differ in their seeds alone",
                got=f"{name} {', '.join(sorted(values))}",
            )
        if values == {"None"}:
            raise ConfigError("runs must be of this recipe", got=f"one without {name}")


def found_by(
    model: nn.Module,
    run: Path,
    data: Interactions,
    config: dict[str, Any],
    scored: Callable[..., Any],
) -> Tensor:
    """The place of each user's item of the test, (users,), by the last weights of a run."""
    newest_checkpoint(run / "checkpoints").load_model(model)
    model.eval()
    held = held_out(data, config["length"], without=1)
    with torch.no_grad():
        return places(*scored(model, [torch.from_numpy(each) for each in held]))


def without(name: str, data: Interactions) -> tuple[Tensor, Any]:
    """The place of each user's item of the test, (users,), by a method that needs no training.

    It knows everything that users chose before that item, also what validates. Its setting is the
    one whose NDCG@10 is highest on the validation.

    Returns:
        The places, and the setting; None where a method has none.
    """
    method, settings = METHODS[name]
    if not settings:
        return _places(data, 1, method), None
    on_validation = [
        gains(_places(data, 2, lambda choices, s=each: method(choices, s))).mean().item()  # type: ignore[misc]
        for each in settings
    ]
    best = settings[int(np.argmax(on_validation))]
    return _places(data, 1, lambda choices: method(choices, best)), best


def _places(data: Interactions, held: int, method: Callable[[Any], Any]) -> Tensor:
    choices = chosen(data.histories(without=held), len(data.titles))
    targets = torch.tensor([each[-1] for each in data.histories(without=held - 1)])
    scores = torch.from_numpy(np.ascontiguousarray(method(choices)))
    return places(scores, targets, torch.from_numpy(choices > 0))


def figures(ours: Tensor, theirs: dict[str, tuple[Tensor, Any]]) -> dict[str, Any]:
    """Means of HR@10 and NDCG@10, and how much higher ours are, with intervals of 95 %.

    Args:
        ours: places, (runs, users). A user's value is the mean over the runs.
        theirs: by name, places of the same users, and the setting.
    """
    row: dict[str, Any] = {}
    for measure, value in MEASURES.items():
        of_runs = value(ours)
        row[f"sasrec_{measure}"] = of_runs.mean().item()
        row[f"sasrec_{measure}_deviation"] = of_runs.mean(1).std().item() if len(ours) > 1 else 0.0
        for name, (found, setting) in theirs.items():
            row[f"{name}_{measure}"] = value(found).mean().item()
            more = paired_bootstrap(of_runs.mean(0).numpy(), value(found).numpy())
            row[f"over_{name}_{measure}"] = more.mean
            row[f"over_{name}_{measure}_low"] = more.low
            row[f"over_{name}_{measure}_high"] = more.high
            if setting is not None:
                row[f"{name}_setting"] = setting
    return row
