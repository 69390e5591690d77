"""The backend that computes, and how to choose one."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from metronorm import norm
from metronorm.errors import ConfigError
from metronorm.norm import kernels
from tests.norm.inputs import draw_x


@pytest.mark.skipif(
    os.environ.get("METRONORM_NO_KERNELS") == "1", reason="the environment says there are none"
)
def test_kernels_were_built() -> None:
    assert len(kernels.backends()) > 1
    assert kernels.backend() != "torch"


def test_the_fastest_backend_is_in_use() -> None:
    names = kernels.backends()
    known = ("torch", "plain", "neon", "avx2", "avx512", "avx512_bf16")
    assert names[0] == "torch"
    assert len(set(names)) == len(names)
    assert set(names) <= set(known)
    assert list(names) == sorted(names, key=known.index)
    if not os.environ.get("METRONORM_NORM"):
        assert kernels.backend() == names[-1]
    assert norm.backend is kernels.backend


def test_use_ends_with_its_block() -> None:
    before = kernels.backend()
    for name in kernels.backends():
        with kernels.use(name):
            assert kernels.backend() == name
            with kernels.use("torch"):
                assert kernels.backend() == "torch"
            assert kernels.backend() == name
        assert kernels.backend() == before
    with pytest.raises(ZeroDivisionError), kernels.use("torch"):
        raise ZeroDivisionError
    assert kernels.backend() == before


def test_a_choice_holds_for_all_threads_until_the_next_one() -> None:
    before = kernels.backend()
    try:
        for name in (*kernels.backends(), kernels.backends()[-1]):
            kernels.choose(name)
            assert kernels.backend() == name
    finally:
        kernels.choose(before)


@pytest.mark.parametrize("name", ["", "avx1024", "TORCH"])
def test_unknown_names_are_refused(name: str) -> None:
    before = kernels.backend()
    with pytest.raises(ConfigError, match="a backend must be one of torch"):
        kernels.choose(name)
    with pytest.raises(ConfigError, match=f"got '{name}'"), kernels.use(name):
        pass
    assert kernels.backend() == before


def test_backends_differ_only_by_rounding(backend: str) -> None:
    x = draw_x((5, 100))
    y = norm.layer_norm(x, 100)
    with kernels.use("torch"):
        torch.testing.assert_close(y, norm.layer_norm(x, 100), rtol=1e-6, atol=1e-6)


def test_the_environment_variable_chooses() -> None:
    name = kernels.backends()[-2:][0]  # if possible, not the one that is in use by default
    code = "from metronorm.norm import backend; print(backend())"
    environment = os.environ | {"METRONORM_NORM": name}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == name


def test_without_kernels_there_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METRONORM_KERNELS", raising=False)
    monkeypatch.delenv("METRONORM_KERNELS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="runs on torch's operators, without its C\\+\\+ kernels"):
        assert kernels._load() is None
