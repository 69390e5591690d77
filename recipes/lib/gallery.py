"""Keep the pictures of a recipe's run for the gallery: `recipes/pictures/NAME.png`.

    python recipes/lib/gallery.py RUN PICTURE NAME
    python recipes/lib/gallery.py runs/reinforcement episode cartpole

PICTURE is the name of a sample, of which the newest is taken; `metronorm show RUN` lists them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from metronorm.errors import ConfigError, MetronormError
from metronorm.runs import open_run

PICTURES = Path(__file__).parents[1] / "pictures"
MOST_BYTES = 150_000  # they are committed


def keep(run: str, picture: str, name: str, *, folder: Path = PICTURES) -> Path:
    """Write the newest picture of a run to the gallery.

    Args:
        run: its directory.
        picture: the name of the sample.
        name: of the file, without its ending.
        folder: of the gallery.

    Raises:
        ConfigError: the run has no such picture, or it is too large to be committed.
    """
    found = [each for each in open_run(run).samples() if each.kind == "picture"]
    names = dict.fromkeys(each.name for each in found)
    if picture not in names:
        raise ConfigError(
            "the gallery shows a picture of the run",
            got=picture,
            fix=", ".join(names) or "a run that has pictures",
        )
    content = [each for each in found if each.name == picture][-1].read()
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"a picture is at most {MOST_BYTES:,} bytes", got=f"{picture}, {len(content):,} bytes"
        )
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.png"
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        print(keep(*sys.argv[1:4]))
    except MetronormError as error:
        sys.exit(f"gallery: {error}")
