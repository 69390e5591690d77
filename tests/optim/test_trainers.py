"""In other people's training loops: the updates of torch.optim.SGD there, to rounding."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from metronorm.optim import Ticks

HYPER = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6}  # of parameters of about one
TOKENS = 31
CLIP = 0.1  # every window's gradient is longer
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])

Optimizer = torch.optim.Optimizer
Run = Callable[[Callable[..., Optimizer]], list[Tensor]]


def sgd(parameters: Any) -> Optimizer:
    return torch.optim.SGD(parameters, **HYPER)


def ticks(parameters: Any, **more: Any) -> Optimizer:
    return Ticks(parameters, **HYPER, **more)


def same(run: Run, dtype: torch.dtype, make: Callable[..., Optimizer] = ticks) -> None:
    """The same training twice."""
    wanted, found = run(sgd), run(make)
    assert found[0].dtype == dtype
    assert difference(found, wanted) < ROUNDING[dtype]


def difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))


# --- a model and its data -------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss."""
        x, y = batch
        return (self.layers(x) - y).square().mean()


def loader(dtype: torch.dtype) -> DataLoader[Any]:
    """Twelve batches."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(48, n, generator=generator, dtype=dtype) for n in (5, 3))
    return DataLoader(list(zip(x, y, strict=True)), batch_size=4)


def copies(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


# --- a plain loop ---------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("clip", [None, CLIP])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loop_that_takes_the_gradients_away(
    when: str, clip: float | None, dtype: torch.dtype
) -> None:
    """It can clip them, too: they are of one window."""

    def run(make: Callable[..., Optimizer]) -> list[Tensor]:
        model = Net(dtype)
        optimizer = make(model.parameters())

        def take() -> None:
            for parameter in model.parameters():
                parameter.grad = None

        for _ in range(5):
            for number, batch in enumerate(loader(dtype)):
                if when == "before" and number % 3 == 0:
                    take()
                (model(batch) / 3).backward()
                if number % 3 == 2:
                    if clip:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    if when == "after":
                        take()
        return copies(model)

    same(run, dtype)


# --- Accelerate -----------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("clip", [None, CLIP])
def test_accelerate(clip: float | None, dtype: torch.dtype) -> None:
    """What it clips must be separate from the sum; with "skip" it is."""
    accelerate = pytest.importorskip("accelerate")

    def run(make: Callable[..., Optimizer]) -> list[Tensor]:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=5)
        model = Net(dtype)
        inner = make(model.parameters())
        falling = torch.optim.lr_scheduler.ExponentialLR(inner, 0.99)
        model, optimizer, data, schedule = accelerator.prepare(model, inner, loader(dtype), falling)
        for _ in range(5):
            for batch in data:  # twelve: the last window of an epoch has two
                with accelerator.accumulate(model):
                    accelerator.backward(model(batch))
                    if clip and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
        return copies(model)

    same(run, dtype, partial(ticks, on_nonfinite="skip" if clip else "raise"))


# --- Lightning ------------------------------------------------------------------------------------


def fit(
    make: Callable[..., Optimizer],
    folder: Path,
    dtype: torch.dtype,
    *,
    clip: float | None = None,
    epochs: int = 5,
    resume: Path | None = None,
) -> list[Tensor]:
    """Leaves a checkpoint in the folder."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(dtype)

        def training_step(self, batch: Any, number: int) -> Tensor:
            return self.net(batch)

        def configure_optimizers(self) -> Any:
            optimizer = make(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)]

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        accumulate_grad_batches=5,
        gradient_clip_val=clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, loader(dtype), ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return copies(module)


def of_lightning(test: Any) -> Any:
    """It warns of its own use of torch, and of data that is loaded by this process."""
    for message in (".isinstance.treespec, LeafSpec", "The 'train_dataloader' does not have many"):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


@of_lightning
@DTYPES
@pytest.mark.parametrize("clip", [None, CLIP])
def test_lightning(clip: float | None, dtype: torch.dtype, tmp_path: Path) -> None:
    """What it clips must be separate from the sum; with "skip" it is."""
    same(
        lambda make: fit(make, tmp_path, dtype, clip=clip),
        dtype,
        partial(ticks, on_nonfinite="skip" if clip else "raise"),
    )


@of_lightning
def test_lightning_resumes(tmp_path: Path) -> None:
    """To rounding: it begins with `zero_grad()`, so the first window after that is separate."""
    wanted = fit(ticks, tmp_path, torch.float64)
    fit(ticks, tmp_path, torch.float64, epochs=2)
    found = fit(ticks, tmp_path, torch.float64, resume=tmp_path / "last.ckpt")
    assert difference(found, wanted) < ROUNDING[torch.float64]


# --- Transformers ---------------------------------------------------------------------------------


def make_llama(dtype: torch.dtype) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=TOKENS,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            attention_dropout=0.1,
        )
    ).to(dtype)


def sentences() -> list[dict[str, Tensor]]:
    """Of which other numbers of tokens count."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for number in range(40):
        tokens = torch.randint(TOKENS, (12,), generator=generator)
        targets = tokens.clone()
        targets[: number % 9] = -100
        found.append({"input_ids": tokens, "labels": targets})
    return found


def fine_tune(
    make: Any, folder: Path, dtype: torch.dtype, *, resume: str | None = None, **arguments: Any
) -> list[Tensor]:
    pytest.importorskip("accelerate")  # which the Trainer needs
    from transformers import PrinterCallback, Trainer, TrainingArguments

    model = make_llama(dtype)
    trainer = Trainer(
        model,
        TrainingArguments(
            **{"save_strategy": "no", **arguments},
            output_dir=str(folder),
            num_train_epochs=3,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            seed=3,
        ),
        train_dataset=sentences(),
        **make(model),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return copies(model)


def handed_over(make: Callable[..., Optimizer]) -> Any:
    return lambda model: {"optimizers": (make(model.parameters()), None)}


def by_class(kind: type[Optimizer]) -> Any:
    """The Trainer makes its groups, with weight decay and without."""
    return lambda model: {"optimizer_cls_and_kwargs": (kind, HYPER)}


@DTYPES
@pytest.mark.parametrize("clip", [{}, {"max_grad_norm": 0.0}], ids=["clip", "no_clip"])
@pytest.mark.parametrize("beats", [1, 4])
def test_transformers(beats: int, clip: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    def run(make: Callable[..., Optimizer]) -> list[Tensor]:
        arguments = {"gradient_accumulation_steps": beats, **clip}
        return fine_tune(handed_over(make), tmp_path, dtype, **arguments)

    same(run, dtype)


def test_transformers_makes_the_optimizer(tmp_path: Path) -> None:
    """With weight decay for matrices and none for norms; Ticks is handed over by its class."""
    arguments = {"gradient_accumulation_steps": 3, "weight_decay": 0.1}
    wanted, found = (
        fine_tune(by_class(kind), tmp_path, torch.float64, **arguments)
        for kind in (torch.optim.SGD, Ticks)
    )
    assert difference(found, wanted) < ROUNDING[torch.float64]


@pytest.fixture
def no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.mark.usefixtures("no_progress_bars")
def test_transformers_resumes(tmp_path: Path) -> None:
    """In the middle of an epoch, with dropout: bitwise the run that was not interrupted."""
    arguments = {
        "gradient_accumulation_steps": 4,
        "save_strategy": "steps",
        "save_steps": 7,  # of fifteen
    }
    tune = partial(fine_tune, handed_over(ticks), tmp_path, torch.float32, **arguments)
    wanted, found = tune(), tune(resume=str(tmp_path / "checkpoint-7"))
    assert difference(found, wanted) == 0
