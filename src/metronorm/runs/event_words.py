"""Events in plain words, each in one line.

An event of a script has its name and its fields. So has one that has the name of an event of
Metronorm, but other fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.scalars import is_integer, is_number
from metronorm.text import counted, flat, short_number, short_time, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metronorm.runs.events import Event


def in_words(event: Event) -> str:
    """What happened, in one line; text of the run is in it as it is."""
    return " ".join((_known(event.name, event.fields) or _named(event)).split())


def _known(name: str, fields: dict[str, Any]) -> str | None:
    """The words of an event of Metronorm; None for any other."""
    return _of_the_clock(name, fields) or _of_a_training(name, fields)


def _of_the_clock(name: str, fields: dict[str, Any]) -> str | None:
    match name, fields:
        case "start", {"process": process, "host": host}:
            return f"the attempt starts: process {process} on {host}"
        case "changed", {}:
            return _changed(fields)
        case "end", {"error": error, **others}:
            message = others.get("message")
            return f"ended by {error}" + (f": {message}" if message else "")
        case "end", {}:
            return "the attempt ends" if not fields else None
        case "between", {}:
            return _logged("after the tick", fields)
        case "unfinished", {}:
            return _logged("in a tick that did not end", fields)
        case "gc", {"generation": generation, "duration_ns": ns} if is_number(ns):
            return f"garbage collector paused for {short_time(ns)} (generation {generation})"
        case "phase left out", {"phase": phase, "thread": thread}:
            return f"phase {phase} of the thread {thread} was left out"
        case "dropped", {"kind": kind, "records": records} if is_integer(records):
            ticks = f", of tick {fields.get('first_tick')} to {fields.get('last_tick')}"
            why = f": {fields['error']}" if fields.get("error") else ""
            return f"the disk did not take {counted(records, 'record')} ({kind}){ticks}{why}"
        case "sampling", {"every": every} if is_integer(every):
            often = "in every tick" if every == 1 else f"in one of {every} ticks"
            return f"phases are measured {often} from now on"
        case "stall", {"seconds": seconds} if is_number(seconds):
            return f"no tick came for {short_time(seconds * 1e9)}; the event has the stacks"
        case "not sampled", {"what": what, "why": why}:
            return f"{what} is not sampled: {why}"
        case "not finite", {"metric": metric, "value": value}:
            return f"{metric} is {value}"
        case "samples dropped", {"samples": samples, "why": why} if is_integer(samples):
            return f"{counted(samples, 'sample')} not kept: {why}"
        case "sample", {"name": label, "kind": kind, "bytes": count} if is_number(count):
            text = f": {fields['text']}" if fields.get("text") else f", {size(count)}"
            return f"sample {label} ({kind}){text}"
        case "sample", {"text": text}:
            return f"sample: {text}"
    return None


def _of_a_training(name: str, fields: dict[str, Any]) -> str | None:
    match name, fields:
        case "resume" | "branch", {"checkpoint": checkpoint, "changed": list(changed)}:
            did = "went on" if name == "resume" else "branched"
            origin = f"from {checkpoint}" if checkpoint else "from the beginning"
            return f"{did} {origin}" + (f"; {'; '.join(map(str, changed))}" if changed else "")
        case "checkpoint", {"path": path}:
            return f"saved {path}"
        case "checkpoint failed", {"error": error}:
            return f"could not save: {error}"
        case "signal", {"signal": signal}:
            return f"{signal} arrived: the training stops"
        case "stop", {"reason": reason}:
            return f"stopped: {reason}"
        case "machine", {}:
            return f"runs with {_listed(fields)}" if fields else None
        case "test", {}:
            return f"on the test set: {_listed(fields)}" if fields else None
    return None


def _named(event: Event) -> str:
    """The name of an event and its fields."""
    listed = _listed(event.fields)
    return f"{event.name}: {listed}" if listed else event.name


def _listed(fields: Mapping[str, Any]) -> str:
    """Names and values: "loss 0.31, at.rank 3"."""
    return ", ".join(f"{name} {_value(value)}" for name, value in flat(fields).items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return short_number(value) if isinstance(value, float) else str(value)


def _logged(when: str, fields: dict[str, Any]) -> str | None:
    """Metrics and phases that were logged outside of ticks."""
    metrics, phases = fields.get("metrics", {}), fields.get("phases", {})
    if not (isinstance(metrics, dict) and isinstance(phases, dict) and (metrics or phases)):
        return None
    times = {phase: short_time(ns) for phase, ns in phases.items() if is_number(ns)}
    return f"{when}: {_listed(metrics | times)}"


def _changed(fields: dict[str, Any]) -> str | None:
    """The fields of an event `changed`: the first values and the new ones."""
    config = fields.get("config", {})
    if not isinstance(config, dict):
        return None
    pairs = {name: fields[name] for name in ("name",) if name in fields} | config
    changes = [
        f"{name} {_value(pair[1])} (first {_value(pair[0])})"
        for name, pair in pairs.items()
        if isinstance(pair, list) and len(pair) == 2
    ]
    return f"this attempt has {', '.join(changes)}" if changes else None
