"""The training loop: this and `trainer.py` are the heart of `metronorm.train`.

Everything that decides the parameters (weights, optimizer, random numbers, place in the text) is
in the checkpoint, and nothing else does: a resumed run goes on bit for bit.
"""

from __future__ import annotations

import contextlib
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
from metronorm.errors import DataError, MetronormError, OutOfMemoryError, RunError
from metronorm.models.gpt import GPT
from metronorm.models.sampling import sample
from metronorm.optim import windows
from metronorm.train import checkpoint_folder, machine
from metronorm.train.checkpoint import FOLDER
from metronorm.train.checkpoint_checks import file_sha256
from metronorm.train.plain import check_resumable, differences, from_plain, to_plain
from metronorm.train.resuming import (
    check_same_config,
    check_same_text,
    check_text_is_there,
    checkpoint_to_resume,
    describe_machine,
)
from metronorm.train.stop import Stop
from metronorm.train.trainer import Trainer, tokens_of

if TYPE_CHECKING:
    from metronorm.data.dataset import TextDataset
    from metronorm.train.checkpoint import Checkpoint
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
    saved: int | None
    """The tick of the newest checkpoint: less than `tick` where the last one found no room, None
    where none did."""


def train(config: TrainConfig, directory: Path, *, resume: bool = False) -> Outcome:
    """Train a GPT on text, every tick on record in the run `directory`.

    Args:
        config: what to do; on `resume` it must be the run's own but for what is free.
        directory: of the run; new, or on `resume` one that is there.
        resume: go on from the newest whole checkpoint; from tick 0 where there is none yet.

    Raises:
        DataError: text that cannot be used.
        ConfigError: sizes that cannot work, or on `resume` differ from the run's.
        RunError: the directory holds another run, or on `resume` none, or one that another process
            is writing.
        CheckpointError: on `resume`, only damaged checkpoints.
        DivergenceError: the loss is no longer finite.
        OutOfMemoryError: a micro-batch that does not fit.
    """
    directory = directory.absolute()  # wherever the process goes
    try:
        if not resume:
            check_free(directory)
            return _train(config, directory)
        plain = read_run_info(directory).config
        check_resumable(config, plain, proven=True)
        # the run is this process's before anything of it is read: else another one may go on with
        # it meanwhile, and this one then from where that had been
        with contextlib.closing(Clock(directory, resume=True).claim()) as clock:
            found = checkpoint_to_resume(directory)
            check_resumable(config, plain, proven=found is not None)
            named = config.text.data != from_plain(plain).text.data
            return _train(config, directory, clock, found, named=named)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, OutOfMemoryError) and (
            isinstance(error, MetronormError) or not machine.is_out_of_memory(error)
        ):
            raise
        raise machine.out_of_memory(error, resume=resume) from None


def _train(
    config: TrainConfig,
    directory: Path,
    clock: Clock | None = None,
    found: Checkpoint | None = None,
    *,
    named: bool = False,
) -> Outcome:
    if found:
        check_same_config(found, config)
    try:
        # a resumed run reads the tokens it was begun with, if they are still in the cache; but a
        # text that is named anew must be there, and the same
        text = prepare(config.text, sha256=found.state["text"] if found and not named else None)
    except DataError:
        if clock:
            check_text_is_there(config.text.data)
        raise
    text.check_context(config.model.context)
    if found:
        check_same_text(found, text)
    config = replace(config, model=replace(config.model, vocab_size=text.tokenizer.vocab_size))
    return _Training(config, directory, text, clock, found).run()


class _Training:
    """One attempt at a run; `clock` has claimed it on resume."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        text: TextDataset,
        clock: Clock | None,
        found: Checkpoint | None,
    ) -> None:
        self.config, self.directory, self.text, self.found = config, directory, text, found
        device = machine.choose_device(config.device)
        if device.type == "cpu":
            machine.check_memory(config.model, config.batch_size)
        else:
            machine.check_model_memory(config.model)  # it is made here and then moved there
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
        optimizer = self.trainer.optimizer  # its imports take seconds, which are no tick's
        if found:
            found.load_model(model)
            found.load_optimizer(optimizer)
        self.stop, self.resumed = Stop(), clock is not None
        self.clock = clock or Clock(directory, config=to_plain(config))
        self.checkpoints = directory / FOLDER
        self.saved = found.tick if found else None
        self.machine = describe_machine()
        self.validation_loss: float | None = None

    def _choose_allocator(self, trial: Beat) -> machine.Allocator:
        if self.config.allocator == "auto":
            with machine.untouched(self.trainer.model):
                return machine.choose_allocator(lambda: self.trainer.try_out(trial))
        machine.keep_large_blocks(self.config.allocator == "keep")
        return self.config.allocator

    def run(self) -> Outcome:
        config, initial = self.config, self.found.tick if self.found else 0
        with self.stop as stop, self.clock as clock:
            self.tokenizer = self._keep_tokenizer()
            clock.event("machine", precision=self.trainer.precision, allocator=self.allocator)
            if self.resumed:
                before = read_run_info(self.directory).config
                clock.event(
                    "resume",
                    checkpoint=self.found.path.name if self.found else None,
                    changed=differences(before, to_plain(config), free=frozenset()),
                )
            lowest = checkpoint_folder.lowest_loss(self.checkpoints)
            due = None
            beats = windows(self.sampler, config.micro_batches, count=tokens_of)
            for window in clock.ticks(beats, total=config.ticks, initial=initial):
                if due:  # only now is the record of that tick on the tape, so no kill parts them
                    self._save(clock, due)
                self.trainer.tick(clock, window)
                last = clock.tick == config.ticks
                loss = None
                if last or clock.tick % config.evaluate_every == 0:
                    loss = self._evaluate(clock)
                if config.sample_every and clock.tick % config.sample_every == 0:
                    self._sample(clock)
                if stop.signal:
                    clock.event("signal", signal=stop.signal.name)
                    clock.stop()
                to_save = last or clock.tick % config.checkpoint_every == 0 or bool(stop.signal)
                if loss is not None and loss < lowest:
                    lowest, to_save = loss, True
                due = self._state(clock.tick, loss) if to_save else None
            if due:
                self._save(clock, due)
        return Outcome(self.directory, clock.tick, self.validation_loss, stop.signal, self.saved)

    def _keep_tokenizer(self) -> str:
        """A run can be sampled from without its text's cache; the SHA-256 of its tokenizer's file.

        On resume the file stays if it is the one that the checkpoints were made with: another
        version of the library may write the same tokenizer in other bytes.
        """
        path = self.directory / "tokenizer.json"
        try:
            expected = self.found.state.get("tokenizer") if self.found else None
            if expected is None or not path.exists() or file_sha256(path) != expected:
                self.text.tokenizer.save(path)
            self.checkpoints.mkdir(exist_ok=True)
            return file_sha256(path)
        except OSError as error:
            raise RunError(
                "a run's directory must be writable and have room",
                got=f"{self.directory}: {error.strerror or error}",
            ) from None

    def _evaluate(self, clock: Clock) -> float | None:
        """The validation loss; None if a signal came before it was known."""
        with clock.phase("evaluate"):
            loss = self.trainer.evaluate(
                self.stop.until_signal(
                    validation_windows(
                        self.text.validation,
                        self.config.model.context,
                        self.config.batch_size,
                        max_tokens=self.config.evaluate_tokens or None,
                    )
                )
            )
        if self.stop.signal:
            return None
        self.validation_loss = loss
        per_character = loss / self.text.characters_per_token
        clock.log(validation_loss=loss, validation_loss_per_character=per_character)
        return loss

    def _state(self, tick: int, validation_loss: float | None) -> dict[str, Any]:
        """What a resumed run needs beside tensors, as it is at the end of this tick."""
        return {
            "tick": tick,
            "config": to_plain(self.config),
            "precision": self.trainer.precision,
            "sampler": self.sampler.state_dict(),
            "text": self.text.sha256,
            "tokenizer": self.tokenizer,
            "machine": self.machine,
            "validation_loss": validation_loss,
        }

    def _save(self, clock: Clock, state: dict[str, Any]) -> None:
        trainer = self.trainer
        with clock.phase("checkpoint"):
            clock.flush()
            try:
                path = checkpoint_folder.save(
                    self.checkpoints, model=trainer.model, optimizer=trainer.optimizer, state=state
                )
            except OSError as error:
                _log.warning("no checkpoint at tick %d: %s", state["tick"], error)
                clock.event("checkpoint failed", error=str(error))
                return
            self.saved = state["tick"]
            clock.event("checkpoint", path=path.name)
            try:
                checkpoint_folder.prune(self.checkpoints, self.config.keep, tick=self.saved)
            except OSError as error:
                _log.warning("an old checkpoint cannot be removed: %s", error)

    def _sample(self, clock: Clock) -> None:
        with clock.phase("sample"):
            tokens = sample(
                self.trainer.model,
                [self.text.tokenizer.separator],
                max_tokens=self.config.sample_tokens,
                temperature=0.8,
                generator=torch.Generator().manual_seed(self.config.seed),
            )
            pieces = self.stop.until_signal(stream_decode(self.text.tokenizer, tokens))
            said = "".join(pieces)
        if self.stop.signal:
            return
        clock.event("sample", text=said)
        tqdm.write(f"--- tick {clock.tick} ---\n{said.strip()}\n---", file=sys.stderr)


def choose_precision(config: TrainConfig, found: Checkpoint | None) -> machine.Precision | None:
    """What was asked for, or what the run has had so far; None: measure."""
    if config.precision != "auto":
        return config.precision
    return found.state["precision"] if found else None
