"""In Chinese, what the server says in English sentences is Chinese, too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm import runs
from metronorm.board.page_files import PAGE
from metronorm.runs.comparing.losses import LastValues, Reached
from metronorm.runs.comparing.statements import statements
from metronorm.runs.comparing.times import Measure
from metronorm.runs.diagnosing.finding import evidence_in_words

from .browsers import reading

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .boards import Served

KNOWN = json.loads((PAGE / "sentences.zh.json").read_text())
SAID = """async (texts) => {
  const main = document.querySelector("script[type=module]").src
  const { loadSentences, sentence } = await import(new URL("parts/sentences.js", main))
  await loadSentences()
  return texts.map(sentence)
}"""


def test_every_rule_and_its_evidence_have_words() -> None:
    rules, names = set(), set()
    for path in (Path(runs.__file__).parent / "diagnosing").glob("*.py"):
        text = path.read_text()
        rules |= set(re.findall(r'rule="([^"]+)"', text))
        for evidence in re.findall(r"evidence(?:: Evidence)? ?= ?\{([^}]*)\}", text):
            names |= set(re.findall(r'"(\w+)":', evidence))
        names |= set(re.findall(r'evidence\["(\w+)"\]', text))
    assert len(names) > 40
    assert KNOWN["rules"].keys() == rules
    words = {words for words, _ in evidence_in_words(dict.fromkeys(sorted(names), 1))}
    assert words <= KNOWN["evidence"].keys()


def said() -> list[str]:
    """Every kind of sentence of a comparison."""
    slower, faster = Measure(1e6, 2e6, 2.0, 1.9, 2.1), Measure(2e6, 1e6, 0.5, 0.4, 0.6)
    same, single = Measure(1e6, 1e6, 1.0, 0.9, 1.1), Measure(1e6, 1e6, 1.0)
    found = []
    for median in (slower, faster, same, single):
        for mean in (slower, faster, same):
            times = {"tick_median_ns": median, "tick_mean_ns": mean}
            found += statements(times, {"forward pass": slower})
    times = {"tick_median_ns": same, "tick_mean_ns": same}
    for last in (LastValues(1000, 1, 2, True), LastValues(1000, 2, 1, True)):
        for better in ("lower", "higher", None):
            found += statements(times, {}, "loss", last=last, better=better)
    found += statements(times, {}, "loss", last=LastValues(1000, 1, 1, False))
    for a in (None, 5.0):
        for b in (None, 6.0):
            found += statements(times, {}, "loss", [Reached("A", 1.5, a, b)])
    return list(dict.fromkeys(found))


def test_the_sentences_of_a_comparison(browser: Browser, board: Served) -> None:
    sentences = said()
    with reading(browser, board, locale="zh-CN") as reader:
        found = reader.page.evaluate(SAID, sentences)
        for text, (words, language) in zip(sentences, found, strict=True):
            assert language is None, text
            assert re.search("[\u4e00-\u9fff]", words), text
            assert "undefined" not in words
            numbers = re.findall(r"\d[\d.,]*", re.sub(r"\(.*?\)", "", text))
            assert all(number.rstrip(".,") in words for number in numbers), (text, words)
        ids = [run["id"] for run in board.runs().values()]
        reader.open(f"compare?a={ids[0]}&run={ids[1]}")
        items = reader.page.locator(".statements li")
        items.first.wait_for()
        assert not reader.page.locator(".statements li[lang=en]").count()
        assert reader.page.locator("td, th").get_by_text("tick 用时中位数").count() == 1
    with reading(browser, board) as reader:
        assert reader.page.evaluate(SAID, sentences) == [[text, None] for text in sentences]
