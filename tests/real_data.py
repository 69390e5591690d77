"""Marks that skip a test where real data are not installed; `make data` installs them."""

from collections.abc import Callable

import pytest

from metronorm.data.packages import debian_folder, installed, npm_folder
from metronorm.errors import MissingDependencyError


def needs(find: Callable[[], object], package: str) -> pytest.MarkDecorator:
    """Skip where `find` finds nothing."""
    try:
        find()
    except MissingDependencyError:
        return pytest.mark.skipif(True, reason=f"{package} is not installed: make data")
    return pytest.mark.skipif(False, reason="")


def needs_debian(package: str, folder: str) -> pytest.MarkDecorator:
    """Skip where a package of Debian has no such folder."""
    return needs(lambda: debian_folder(package, folder), package)


def needs_npm(package: str) -> pytest.MarkDecorator:
    """Skip where a package of npm is not installed."""
    return needs(lambda: npm_folder(package), package)


def needs_python(package: str) -> pytest.MarkDecorator:
    """Skip where a Python package is not installed."""
    return needs(lambda: installed(package, ""), package)


needs_fashion_mnist = needs_debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist")
needs_movielens = needs_python("recbole")
needs_poems = needs_npm("chinese-poetry")
needs_gcin_voice = needs_debian("gcin-voice", "usr/share/gcin-voice/ogg")
needs_fillets = needs_debian("fillets-ng-data-cs", "usr/share/games/fillets-ng/sound/city/cs")
