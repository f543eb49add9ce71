"""The pages in docs/ are executed: the blocks of each in one go, from top to bottom, and their links checked."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
# <!-- needs: datasets --> before the blocks of a section says which library they need; it holds to the next heading.
_BLOCK = re.compile(r"^```python\n(.*?)^```|^<!-- needs: (\w+) -->$|^#+ ", flags=re.DOTALL | re.MULTILINE)


def blocks_of(page: str) -> list[tuple[int, str, str | None]]:
    """The line, the code and the library of each Python block of a page, None where it needs none."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks, library = [], None
    for found in _BLOCK.finditer(text):
        code, needed = found.groups()
        if code is None:
            library = needed
        else:
            blocks.append((text.count("\n", 0, found.start(1)), code, library))
    return blocks


def run(page: str, blocks: list[tuple[int, str, str | None]]) -> None:
    names: dict[str, object] = {}
    for line, code, _ in blocks:
        exec(compile("\n" * line + code, f"docs/{page}", "exec"), names)  # errors show the page's line


LIBRARIES = [(page, library) for page in PAGES for library in sorted({block[2] for block in blocks_of(page)} - {None})]


# Keras says so of the "before" blocks whose length it does not know; with `error`, the page would stop there.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run(page, [block for block in blocks_of(page) if block[2] is None])


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("page", "library"), LIBRARIES)
def test_what_needs_a_library_runs_after_the_first_block(
    page: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}, which is not installed")
    monkeypatch.chdir(tmp_path)
    first, *others = blocks_of(page)
    run(page, [first, *(block for block in others if block[2] == library)])


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    files = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [target for target in files if not (ROOT / "docs" / target).exists()] == []
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - anchors == set()
