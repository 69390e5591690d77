"""What a fine-tuned or a pretrained model writes: after a prompt, or in a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import ConfigError, DataError
from metronorm.finetune.library import quietly
from metronorm.finetune.pretrained import load
from metronorm.finetune.stopping import ends_of
from metronorm.finetune.tuned_run import load_tuned
from metronorm.models.sampling import check_draw, probabilities
from metronorm.train.precision import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from metronorm.finetune.pretrained import Pretrained

_MOST = 256  # tokens of a text, where nothing else is chosen
_TORN = "\N{REPLACEMENT CHARACTER}"  # ends a text in the middle of a character


class Writer:
    """Writes with a model, token by token.

    Args:
        pretrained: a causal model, adapted or not.
        ends: tokens that end an answer, beside those that the model itself ends with.

    Raises:
        ConfigError: a classifier.
    """

    def __init__(self, pretrained: Pretrained, ends: Sequence[int] = ()) -> None:
        if pretrained.kind != "causal":
            raise ConfigError("a language model writes", got="a classifier")
        self._model, self._tokenizer = pretrained.model.eval(), pretrained.tokenizer
        self._context = pretrained.context
        self._ends = ends_of(pretrained, ends)

    def answer(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[str]:
        """The next answer of a conversation, piece by piece.

        Where the context has no room for the answer (at most half of the context is kept free for
        it), the oldest turns are left out, but not those of the system.

        Args:
            messages: with `role` and `content`, as the tokenizer's chat template takes them.
            options: as `write`.

        Raises:
            DataError: the tokenizer has no chat template, or it refuses the conversation; or the
                last message alone fills the context.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            raise DataError(
                "a conversation needs a tokenizer with a chat template",
                got="none",
                fix="metronorm sample, which goes on from a text",
            )
        kept: Sequence[Mapping[str, Any]] | None = messages
        while kept is not None:
            ids = self._rendered(kept)
            if len(ids) <= self._room(options.get("max_tokens", _MOST)):
                break
            kept = _without_oldest(kept)
        if len(ids) >= self._context:
            raise DataError(
                f"a message must fit into the model's context of {self._context:,} tokens, and "
                "leave room for an answer",
                got=f"{len(ids):,} tokens",
                fix="a shorter message",
            )
        return self._write(ids, **options)

    def _rendered(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        try:
            prompt = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates are programs, and raise anything
            raise DataError(
                "the chat template must take the conversation", got=str(error).splitlines()[0]
            ) from None
        ids: list[int] = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    def _room(self, max_tokens: int) -> int:
        """Most tokens of a prompt: half of the context stays, or what is to be written if less."""
        return self._context - max(min(max_tokens, self._context // 2), 1)

    def write(self, prompt: str, **options: Any) -> Iterator[str]:
        """What follows a text, piece by piece, until the model ends it or its context is full.

        Of a text that fills the context its end is read.

        Args:
            prompt: the text; "" begins with the token that begins a text.
            options: `max_tokens`, `temperature` (0 takes the most likely token), `top_k`, `top_p`,
                and `generator` of random numbers.

        Raises:
            ConfigError: an option is out of range.
        """
        ids = self._tokenizer(prompt)["input_ids"]
        return self._write(ids[-self._room(options.get("max_tokens", _MOST)) :], **options)

    def _write(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = _MOST,
        temperature: float = 0.7,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[str]:
        check_draw(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens)
        given = list(ids) or [self._tokenizer.bos_token_id or min(self._ends)]

        def draw() -> Iterator[int]:
            cache: Any = None
            new = given
            for _ in range(min(max_tokens, self._context - len(given))):
                with torch.inference_mode():
                    found = self._model(
                        input_ids=torch.tensor([new], device=self._model.device),
                        past_key_values=cache,
                        use_cache=True,
                    )
                cache = found.past_key_values
                chances = probabilities(
                    found.logits[0, -1].float().cpu(),
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                )
                token = int(torch.multinomial(chances, 1, generator=generator))
                if token in self._ends:
                    return
                yield token
                new = [token]

        return self._decoded(draw())

    def _decoded(self, tokens: Iterator[int]) -> Iterator[str]:
        """Texts of whole characters; what a token alone cannot show waits for the next."""
        said: list[int] = []
        shown = ""
        for token in tokens:
            said.append(token)
            text = self._tokenizer.decode(said)
            if not text.endswith(_TORN) and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
        if text := self._tokenizer.decode(said)[len(shown) :] if said else "":
            yield text


def _without_oldest(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]] | None:
    """A conversation without its first question and what follows it; None: it has no other."""
    asked = [place for place, each in enumerate(messages) if each["role"] == "user"]
    return [*messages[: asked[0]], *messages[asked[1] :]] if len(asked) > 1 else None


def load_writer(
    path: Path, *, best: bool = True, average: str | None = None, device: str = "cpu"
) -> Writer:
    """A writer with the model of a run, or with a pretrained one.

    Args:
        path: directory of a fine-tuned run, of a pretrained model, or a GGUF file.
        best: as for `load_tuned`.
        average: as for `load_tuned`.
        device: that computes, or auto.

    Raises:
        MetronormError: as `load_tuned` and `load`.
        ConfigError: no such device here.
    """
    place = choose_device(device)
    if (path / "run.json").exists():
        found = load_tuned(path, best=best, average=average)
        pretrained, ends = found.adapted.pretrained, found.checkpoint.state.get("ends", ())
    else:
        with quietly():
            pretrained, ends = load(path, "causal"), ()
    pretrained.model.to(place)
    return Writer(pretrained, ends)
