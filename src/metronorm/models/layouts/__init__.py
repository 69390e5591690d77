"""A GPT in the layouts of Hugging Face: config.json, and names and forms of the weights.

| layout | norm | mlp | positions | kv_heads |
| --- | --- | --- | --- | --- |
| gpt2 | layer | gelu, gelu_tanh | learned | as many as heads |
| gpt_neox | layer | gelu, gelu_tanh | rotary | as many as heads |
| llama | rms | swiglu | rotary | any |

What a layout cannot express is what does not come back from its config.json.
`metronorm.models.save_gpt` and `load_gpt` write and read the files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.models.layouts import gpt2, gpt_neox, llama

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metronorm.models.config import GPTConfig
    from metronorm.models.layouts.layout import Layout

__all__ = ["LAYOUTS", "layout_for"]

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout for layout in (gpt2.LAYOUT, gpt_neox.LAYOUT, llama.LAYOUT)
}


def layout_for(config: GPTConfig) -> Layout:
    """The layout that expresses a config.

    Raises:
        ConfigError: there is none.
    """
    for layout in LAYOUTS.values():
        try:
            layout.check(config)
        except ConfigError:
            continue
        return layout
    raise ConfigError(
        "a model must have the options of a layout: "
        "gpt2 (layer, gelu or gelu_tanh, learned), gpt_neox (layer, gelu or gelu_tanh, rotary), "
        "llama (rms, swiglu, rotary)",
        got=f"norm={config.norm!r}, mlp={config.mlp!r}, positions={config.positions!r}, "
        f"kv_heads={config.kv_heads}",
    )
