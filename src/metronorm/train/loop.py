"""The training loop: this and `trainer.py` are the heart of `metronorm.train`.

Everything that decides the parameters (weights, optimizer, random numbers, place in the text) is
in the checkpoint, and nothing else does: a resumed run goes on bit for bit.
"""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from metronorm.clock import Clock, check_free, read_run_info
from metronorm.data.sampler import WindowSampler, validation_windows
from metronorm.data.text import prepare
from metronorm.data.tokenizer import stream_decode
from metronorm.errors import ConfigError, DataError, MetronormError, OutOfMemoryError, RunError
from metronorm.models.gpt import GPT
from metronorm.models.sampling import sample
from metronorm.optim import windows
from metronorm.train import checkpoint, machine
from metronorm.train.plain import check_resumable, to_plain
from metronorm.train.stop import Stop
from metronorm.train.trainer import Trainer, tokens_of

if TYPE_CHECKING:
    from metronorm.data.text import TextDataset
    from metronorm.train.config import TrainConfig
    from metronorm.train.trainer import Beat

_log = logging.getLogger("metronorm")


@dataclass(frozen=True)
class Outcome:
    """How a training ended: the last tick, its validation loss, and the signal that stopped it."""

    directory: Path
    tick: int
    validation_loss: float | None
    signal: signal.Signals | None


def train(config: TrainConfig, directory: Path, *, resume: bool = False) -> Outcome:
    """Train a GPT on text, every tick on record in the run `directory`.

    Args:
        config: what to do; on `resume` it must be the run's own but for what is free.
        directory: of the run; new, or on `resume` with a checkpoint.
        resume: go on from the newest whole checkpoint.

    Raises:
        DataError: text that cannot be used.
        ConfigError: sizes that cannot work, or on `resume` differ from the run's.
        RunError: the directory holds another run, or on `resume` none.
        CheckpointError: no whole checkpoint to resume from.
        DivergenceError: the loss is no longer finite.
        OutOfMemoryError: a micro-batch that does not fit.
    """
    found = None
    if not resume:
        check_free(directory)
    else:
        check_resumable(config, read_run_info(directory).config)
        found = checkpoint.newest_checkpoint(directory / checkpoint.FOLDER)
    text = prepare(config.text)
    text.check_context(config.model.context)
    if found:
        check_same_text(found, text)
    config = replace(config, model=replace(config.model, vocab_size=text.tokenizer.vocab_size))
    try:
        return _Training(config, directory, text, found).run()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MetronormError) or not machine.is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "a training must fit into memory",
            got=str(error).partition("\n")[0],
            fix="a smaller --batch-size with more --micro-batches, which gives the same update",
        ) from None


class _Training:
    """One attempt at a run."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        text: TextDataset,
        found: checkpoint.Checkpoint | None,
    ) -> None:
        self.config, self.directory, self.text, self.found = config, directory, text, found
        device = choose_device(config.device)
        if device.type == "cpu":
            machine.check_memory(config.model, config.batch_size)
        torch.manual_seed(config.seed)
        model = GPT(config.model).to(device)
        self.sampler = WindowSampler(
            text.train, config.model.context, config.batch_size, seed=config.seed
        )
        start = self.sampler.state_dict()
        trial = next(self.sampler)
        self.sampler.load_state_dict(found.state["sampler"] if found else start)
        self.trainer = Trainer(
            config, model, device, precision=choose_precision(config, found), trial=trial
        )
        self.allocator = self._choose_allocator(trial)
        if found:
            found.load_model(model)
            found.load_optimizer(self.trainer.optimizer)
        self.validation_loss: float | None = None

    def _choose_allocator(self, trial: Beat) -> machine.Allocator:
        if self.config.allocator == "auto":
            with machine.untouched(self.trainer.model):
                return machine.choose_allocator(lambda: self.trainer.try_out(trial))
        machine.keep_large_blocks(self.config.allocator == "keep")
        return self.config.allocator

    def run(self) -> Outcome:
        config, initial = self.config, self.found.tick if self.found else 0
        with (
            Stop() as stop,
            Clock(self.directory, config=to_plain(config), resume=bool(self.found)) as clock,
        ):
            self._keep_tokenizer()
            clock.event("machine", precision=self.trainer.precision, allocator=self.allocator)
            if self.found:
                clock.event("resume", checkpoint=self.found.path.name)
            due = None
            beats = windows(self.sampler, config.micro_batches, count=tokens_of)
            for window in clock.ticks(beats, total=config.ticks, initial=initial):
                if due:  # only now is the record of that tick on the tape, so no kill parts them
                    self._save(clock, due)
                self.trainer.tick(clock, window)
                last = clock.tick == config.ticks
                evaluated = last or clock.tick % config.evaluate_every == 0
                if evaluated:
                    self._evaluate(clock)
                if config.sample_every and clock.tick % config.sample_every == 0:
                    self._sample(clock)
                if stop.signal:
                    clock.event("signal", signal=stop.signal.name)
                    clock.stop()
                to_save = last or clock.tick % config.checkpoint_every == 0 or stop.signal
                due = self._state(clock.tick, evaluated=evaluated) if to_save else None
            if due:
                self._save(clock, due)
        return Outcome(self.directory, clock.tick, self.validation_loss, stop.signal)

    def _keep_tokenizer(self) -> None:
        """A run can be sampled from without its text's cache."""
        try:
            self.text.tokenizer.save(self.directory / "tokenizer.json")
        except OSError as error:
            raise RunError(
                "a run's directory must be writable and have room",
                got=f"{self.directory}: {error.strerror or error}",
            ) from None

    def _evaluate(self, clock: Clock) -> None:
        with clock.phase("evaluate"):
            loss = self.trainer.evaluate(
                validation_windows(
                    self.text.validation,
                    self.config.model.context,
                    self.config.batch_size,
                    max_tokens=self.config.evaluate_tokens or None,
                )
            )
        self.validation_loss = loss
        per_character = loss / self.text.characters_per_token
        clock.log(validation_loss=loss, validation_loss_per_character=per_character)

    def _state(self, tick: int, *, evaluated: bool) -> dict[str, Any]:
        """What a resumed run needs beside tensors, as it is at the end of this tick."""
        return {
            "tick": tick,
            "config": to_plain(self.config),
            "precision": self.trainer.precision,
            "sampler": self.sampler.state_dict(),
            "text": self.text.sha256,
            "validation_loss": self.validation_loss if evaluated else None,
        }

    def _save(self, clock: Clock, state: dict[str, Any]) -> None:
        folder = self.directory / checkpoint.FOLDER
        trainer = self.trainer
        with clock.phase("checkpoint"):
            clock.flush()
            try:
                path = checkpoint.save(
                    folder, model=trainer.model, optimizer=trainer.optimizer, state=state
                )
                checkpoint.prune(folder, self.config.keep)
            except OSError as error:
                _log.warning("no checkpoint at tick %d: %s", state["tick"], error)
                clock.event("checkpoint failed", error=str(error))
            else:
                clock.event("checkpoint", path=path.name)

    def _sample(self, clock: Clock) -> None:
        with clock.phase("sample"):
            tokens = sample(
                self.trainer.model,
                [self.text.tokenizer.separator],
                max_tokens=self.config.sample_tokens,
                temperature=0.8,
                generator=torch.Generator().manual_seed(self.config.seed),
            )
            said = "".join(stream_decode(self.text.tokenizer, tokens))
        clock.event("sample", text=said)
        tqdm.write(f"--- tick {clock.tick} ---\n{said.strip()}\n---", file=sys.stderr)


def choose_device(name: str) -> torch.device:
    """The device of this name; auto is the accelerator, where there is one, else the processor.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            "device must be one of this machine's", got=f"{name!r} ({reason})"
        ) from None


def choose_precision(
    config: TrainConfig, found: checkpoint.Checkpoint | None
) -> machine.Precision | None:
    """What was asked for, or what the run has had so far; None: measure."""
    if config.precision != "auto":
        return config.precision
    return found.state["precision"] if found else None


def check_same_text(found: checkpoint.Checkpoint, text: TextDataset) -> None:
    """Refuse to go on with other text than the run had.

    Raises:
        DataError: the tokens differ.
    """
    if found.state["text"] != text.sha256:
        raise DataError(
            "a resumed run must read the text it was begun with",
            got="tokens with another SHA-256",
            fix="put the original files back, or start a new run",
        )
