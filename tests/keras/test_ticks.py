import json
from typing import Any

import keras
import numpy as np
import pytest

from metronorm.errors import ConfigError
from metronorm.keras.ticks import Ticks

from .ticking import BACKEND, arrays, close, doubles, drawn, equations, run, variables

RATE = 0.125


@pytest.mark.parametrize("scaling", ["sum", "mean", "amplified"])
@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("decay", [None, 0.1])
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_the_equations(scaling: Any, steps: int | None, decay: float | None, momentum: Any) -> None:
    beats = drawn(12)
    with doubles():
        optimizer = Ticks(
            RATE,
            momentum,
            scaling=scaling,
            weight_decay=decay,
            gradient_accumulation_steps=steps,
        )
        found = run(optimizer, beats, variables())
        assert int(optimizer.iterations) == 12 // (steps or 1)
    close(
        found,
        equations(
            beats,
            steps=steps or 1,
            rate=RATE,
            momentum=momentum,
            scaling=scaling,
            decay=decay or 0,
        ),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 2**-6},
        {"clipnorm": 0.5},
        {"clipvalue": 0.125},
        {"global_clipnorm": 0.5},
        {"loss_scale_factor": 8.0},
        {"use_ema": True, "ema_momentum": 0.5},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 4},
        {"gradient_accumulation_steps": 2, "weight_decay": 2**-6},
    ],
    ids=str,
)
def test_at_a_constant_rate_it_is_sgd(options: dict[str, Any]) -> None:
    """Numbers that are exact in float32, in which Keras has them on TensorFlow."""
    beats = drawn(8)
    with doubles():
        of_keras = keras.optimizers.SGD(RATE, momentum=0.75, **options)
        expected_values, values = variables(), variables()
        expected = run(of_keras, beats, expected_values)
        ours = Ticks(RATE, 0.75, **options)
        close(run(ours, beats, values), expected)
        of_keras.finalize_variable_values(expected_values)
        ours.finalize_variable_values(values)
        close(arrays(values), arrays(expected_values))


@pytest.mark.skipif(BACKEND != "torch", reason="optimizes torch's tensors")
@pytest.mark.parametrize("scaling", ["sum", "mean", "amplified"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_the_ticks_of_torch(scaling: Any, decay: float) -> None:
    import torch

    from metronorm import optim

    beats = drawn(12)
    parameters = [torch.nn.Parameter(torch.tensor(value)) for value in drawn(1, seed=9)[0]]
    theirs = optim.Ticks(parameters, RATE, 0.75, decay, scaling, decoupled=True)
    for number, beat in enumerate(beats, start=1):
        loss = sum(
            (parameter * torch.tensor(gradient)).sum() / 3
            for parameter, gradient in zip(parameters, beat, strict=True)
        )
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        if number % 3 == 0:
            theirs.step()
            theirs.zero_grad()
    with doubles():
        ours = Ticks(RATE, 0.75, scaling=scaling, weight_decay=decay, gradient_accumulation_steps=3)
        found = run(ours, beats, variables())
    close(found, [parameter.detach().numpy() for parameter in parameters])


@pytest.mark.parametrize("steps", [None, 4])
def test_the_accumulated_gradient_is_the_only_slot(steps: int | None) -> None:
    values = variables("float32")
    optimizer = Ticks(gradient_accumulation_steps=steps)
    optimizer.build(values)
    optimizer.build(values)
    assert [tuple(variable.shape) for variable in optimizer.variables] == [(), (), (3, 4), (4,)]
    slots = [optimizer.slot(value) for value in values]
    assert [id(slot) for slot in slots] == [id(variable) for variable in optimizer.variables[2:]]
    assert all("accumulated_gradient" in slot.name for slot in slots)
    assert len({slot.name for slot in slots}) == 2
    assert optimizer.gradient_accumulation_steps == steps


def test_between_ticks_variables_stay_and_slots_accumulate() -> None:
    beats = drawn(5)
    with doubles():
        values, optimizer = variables(), Ticks(RATE, 0.5, gradient_accumulation_steps=4)
        before = arrays(values)
        for kept, after in zip(before, run(optimizer, beats[:3], values), strict=True):
            assert np.array_equal(kept, after)
        run(optimizer, beats[3:4], values)
        mean = [sum(gradients) / 4 for gradients in zip(*beats[:4], strict=True)]
        close(arrays([optimizer.slot(value) for value in values]), [0.5 * each for each in mean])
        after = arrays(values)
        assert not np.array_equal(before[0], after[0])
        assert np.array_equal(after[0], run(optimizer, beats[4:], values)[0])
        assert int(optimizer.iterations) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_slots_in_float32(dtype: str) -> None:
    """A thousandth, 256 times beside 1: in half precision the sum would stand still."""
    value = keras.Variable(np.zeros(3), dtype=dtype)
    optimizer = Ticks(1.0, 0.0, gradient_accumulation_steps=257)
    gradients = [np.full(3, 1.0), *[np.full(3, 0.001)] * 256]
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype=dtype)], [value])
    assert keras.backend.standardize_dtype(optimizer.slot(value).dtype) == "float32"
    assert keras.backend.standardize_dtype(value.dtype) == dtype
    step = float(keras.ops.convert_to_numpy(keras.ops.cast(-257 * value, "float32"))[0])
    assert step == pytest.approx(1.256, rel=0.005)


@pytest.mark.parametrize("steps", [None, 3])
def test_schedules_count_ticks(steps: int | None) -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    value = keras.Variable(np.zeros(2), dtype="float32")
    optimizer = Ticks(schedule, 0.0, gradient_accumulation_steps=steps)
    places, rates = [], []
    for _ in range(4 * (steps or 1)):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([keras.ops.ones(2)], [value])
        places.append(float(keras.ops.convert_to_numpy(value)[0]))
    assert places[(steps or 1) - 1 :: steps or 1] == pytest.approx([-0.5, -1, -1.25, -1.5])
    assert rates[:: steps or 1] == [0.5, 0.5, 0.25, 0.25]


def test_a_rate_can_be_called_or_set() -> None:
    value = keras.Variable(np.zeros(2), dtype="float32")
    optimizer = Ticks(lambda: 0.5, 0.0)
    optimizer.apply([keras.ops.ones(2)], [value])
    optimizer = Ticks(1, 0.0)
    optimizer.learning_rate = 0.25
    optimizer.apply([keras.ops.ones(2)], [value])
    assert arrays([value])[0].tolist() == [-0.75, -0.75]


def test_averages_are_of_ticks() -> None:
    beats = drawn(8)
    averaged = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
    with doubles():
        big, values = variables(), variables()
        means = [[sum(each) / 4 for each in zip(*beats[at : at + 4], strict=True)] for at in (0, 4)]
        one, four = Ticks(RATE, **averaged), Ticks(RATE, gradient_accumulation_steps=4, **averaged)
        expected = run(one, means, big)
        close(run(four, beats, values), expected)
        averages = arrays(four.variables[2:4])
        close(averages, arrays(one.variables[2:4]))
        run(four, beats[:3], values)
        close(arrays(four.variables[2:4]), averages, tolerance=0)


@pytest.mark.parametrize("steps", [None, 2])
def test_constraints_hold(steps: int | None) -> None:
    layer = keras.layers.Dense(3, kernel_constraint="non_neg")
    layer.build((None, 4))
    optimizer = Ticks(1.0, gradient_accumulation_steps=steps)
    for _ in range(2):
        ones = [keras.ops.ones(value.shape) for value in layer.trainable_variables]
        optimizer.apply(ones, layer.trainable_variables)
    kernel, bias = arrays(layer.trainable_variables)
    assert kernel.min() == 0
    assert bias.max() < 0


@pytest.mark.parametrize("steps", [None, 2])
def test_variables_that_are_overwritten_with_their_gradient(steps: int | None) -> None:
    """Keras takes the largest of a window."""
    found = []
    for optimizer in (
        keras.optimizers.SGD(1.0, gradient_accumulation_steps=steps),
        Ticks(1.0, 0.0, gradient_accumulation_steps=steps),
    ):
        values = [keras.Variable(np.zeros(2), dtype="float32") for _ in range(2)]
        values[0].overwrite_with_gradient = True
        for number in (3.0, 2.0):
            optimizer.apply([keras.ops.full((2,), number)] * 2, values)
        found.append(arrays(values))
    close(found[1], found[0])
    assert found[1][0].tolist() == ([3, 3] if steps else [2, 2])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": -0.1}, "learning_rate must be at least 0; got -0.1"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0; got nan"),
        ({"learning_rate": "fast"}, "learning_rate must be at least 0; got 'fast'"),
        ({"momentum": 1}, "momentum must be at least 0 and below 1; got 1"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"momentum": True}, "momentum must be"),
        ({"momentum": float("nan")}, "momentum must be"),
        ({"scaling": "half"}, "scaling must be one of 'sum', 'mean', 'amplified'; got 'half'"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be a whole number"),
        ({"gradient_accumulation_steps": 2.0}, "got 2.0"),
        ({"gradient_accumulation_steps": True}, "got True"),
        ({"clipnorm": float("nan")}, "clipnorm must be at least 0"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "only one of clipnorm"),
        ({"ema_momentum": float("nan")}, "ema_momentum must be"),
        ({"ema_momentum": True}, "ema_momentum must be"),
        (
            {"use_ema": True, "ema_overwrite_frequency": 0},
            "ema_overwrite_frequency must be a whole",
        ),
        ({"learning_rate": "0.1"}, "learning_rate must be at least 0; got '0.1'"),
        ({"loss_scale_factor": float("inf")}, "loss_scale_factor must be"),
    ],
    ids=str,
)
def test_hyper_parameters_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Ticks(**options)
    assert says in str(error.value)


def test_hyper_parameters_of_numpy_are_numbers_that_can_be_saved() -> None:
    given: dict[str, Any] = {
        "learning_rate": np.float32(0.5),
        "momentum": np.float32(0.5),
        "weight_decay": np.float32(0.25),
        "gradient_accumulation_steps": np.int64(2),
        "use_ema": True,
        "ema_momentum": np.float32(0.5),
        "ema_overwrite_frequency": np.int64(3),
        "loss_scale_factor": np.int64(2),
    }
    config = Ticks(**given).get_config()
    plain = Ticks(
        **{name: value.item() if name != "use_ema" else True for name, value in given.items()}
    )
    assert config == plain.get_config()
    assert json.loads(json.dumps(config)) == config
    assert Ticks(clipnorm=np.float32(0.5)).clipnorm == 0.5


@pytest.mark.parametrize("name", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_a_window_cannot_be_clipped(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"part of the accumulated gradient; got {name} with .*=2; try"
    ):
        Ticks(gradient_accumulation_steps=2, **{name: 1.0})
    Ticks(gradient_accumulation_steps=1, **{name: 1.0})


def test_configs() -> None:
    optimizer = Ticks(
        keras.optimizers.schedules.CosineDecay(0.5, 100),
        0.5,
        scaling="mean",
        weight_decay=0.1,
        gradient_accumulation_steps=4,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=3,
        loss_scale_factor=2.0,
        name="mine",
    )
    saved = keras.optimizers.serialize(optimizer)
    assert saved["registered_name"] == "metronorm>Ticks"
    again = keras.optimizers.deserialize(saved)
    assert type(again) is Ticks
    assert again.get_config() == optimizer.get_config()
    assert again.scaling == "mean"
    with pytest.raises(ConfigError, match="got nesterov, rho; try: the version"):
        Ticks.from_config(Ticks().get_config() | {"rho": 1, "nesterov": True})
    with pytest.raises(ConfigError, match="momentum must be"):
        Ticks.from_config(Ticks().get_config() | {"momentum": 2})
