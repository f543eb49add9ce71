"""The pages in docs/ are executed: the blocks of each in one go, from top to bottom, and their links checked."""

import contextlib
import functools
import importlib.util
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_bucketing
from tests.support import keras_tuner
from tests.support.models import eager_models
from tests.support.pages import backend_of, blocks_with, dead_links, links, python_blocks, run, write_outputs
from tests.support.paths import ROOT
from tests.support.processes import run_on_backend

DOCS = ROOT / "docs"
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
# index.md begins with the lines that the README begins with, which test_readme.py runs.
BLOCKS = {page: python_blocks(text) for page, text in TEXTS.items() if "```python" in text and page != "index.md"}
EAGER = {"migration.md", "guide/transformer.md"}  # they train for a few steps what takes longer to trace
BACKENDS = {page: backend_of(TEXTS[page]) for page in BLOCKS}
LIBRARIES = sorted({(page, block.library) for page, blocks in BLOCKS.items() for block in blocks if block.library})
# <!-- raised by: expression -->, and the text of the error.
ERRORS = re.findall(r"^<!-- raised by: (.*) -->\n> (.*)$", TEXTS["troubleshooting.md"], flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


# Keras says so of the "before" blocks whose length it does not know; with `error`, the page would stop there.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.fit
@pytest.mark.parametrize("page", [page for page, backend in BACKENDS.items() if backend == "tensorflow"])
def test_a_page_runs_from_top_to_bottom(page: str, monkeypatch: pytest.MonkeyPatch):
    if any(".plot(" in block.code for block in BLOCKS[page]):
        pytest.importorskip("matplotlib")
    # XLA would compile for eight seconds; tests/tuning has tests of it.
    without_xla = functools.partial(keras_bucketing.tune_batch_sizes, measure_xla=False)
    monkeypatch.setattr(keras_bucketing, "tune_batch_sizes", without_xla)
    with eager_models() if page in EAGER else contextlib.nullcontext():
        run(f"docs/{page}", blocks_with(None, BLOCKS[page]))


@pytest.mark.fit
@pytest.mark.backends
@pytest.mark.parametrize("page", [page for page, backend in BACKENDS.items() if backend != "tensorflow"])
def test_a_page_for_another_backend_runs_from_top_to_bottom(page: str):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.support.pages import python_blocks, run
run("docs/{page}", python_blocks(Path({str(DOCS / page)!r}).read_text(encoding="utf-8")))
"""
    run_on_backend(BACKENDS[page], "-c", program)


@pytest.mark.fit
@pytest.mark.backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_texts_are_classified_on_another_backend(backend: str):
    """Without the model that takes strings, which only TensorFlow has."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.support.pages import python_blocks, run
blocks = python_blocks(Path({str(DOCS / "guide" / "classify-texts.md")!r}).read_text(encoding="utf-8"))
names = run("page", [block._replace(output=None) for block in blocks if 'dtype="string"' not in block.code])
print(names["keras"].backend.backend(), names["history"].history["val_accuracy"][-1] > 0.9)
"""
    assert run_on_backend(backend, "-c", program).split() == [backend, "True"]


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.fit
@pytest.mark.parametrize(("page", "library"), LIBRARIES)
def test_what_needs_a_library_runs_after_the_first_block(page: str, library: str):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}, which is not installed")
    run(f"docs/{page}", blocks_with(library, BLOCKS[page]))


@pytest.mark.fit
@pytest.mark.parametrize("page", [page for page, library in LIBRARIES if library == "keras_tuner"])
def test_a_search_runs_with_what_copies_callbacks_as_keras_tuner_does(page: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", keras_tuner)
    with eager_models():
        run(f"docs/{page}", blocks_with("keras_tuner", BLOCKS[page]))


PAGE = """# Page

```python
print("3 batches, efficiency 0.912, 12 ms a step in 3ms/step")
```

<!-- output -->
```text
{}
```
"""


@pytest.mark.parametrize(
    ("shown", "is_same"),
    [
        ("3 batches, efficiency 0.912, 12 ms a step in 3ms/step", True),
        ("3 batches,   efficiency 0.913, 12 ms a step in 95ms/step", True),
        ("4 batches, efficiency 0.912, 12 ms a step in 3ms/step", False),
        ("3 batches, efficiency 0.612, 12 ms a step in 3ms/step", False),
        ("", False),
    ],
)
def test_a_block_whose_output_has_changed_fails_and_the_command_writes_it(shown, is_same, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(shown))
    if is_same:
        run("page.md", python_blocks(page.read_text()))
    else:
        with pytest.raises(AssertionError, match=r"page\.md, line 3: .* tests\.support\.pages page\.md"):
            run("page.md", python_blocks(page.read_text()))
    assert write_outputs(page) is not is_same
    assert page.read_text() == PAGE.format(
        shown if is_same else "3 batches, efficiency 0.912, 12 ms a step in 3ms/step"
    )
    assert not write_outputs(page)


@pytest.mark.parametrize("page", TEXTS)
def test_no_words_in_angle_brackets_become_html(page: str):
    """`<name>` outside of code is a tag, which no page shows."""
    text = re.sub(r"```.*?```|`[^`]+`|<!--.*?-->", "", TEXTS[page], flags=re.DOTALL)
    assert re.findall(r"<(?!/?(?:table|tr|th|td)>)[a-z/][^>]*>", text) == []


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_to_a_file_and_to_a_heading(page: str):
    assert dead_links(DOCS / page) == []


def test_there_are_links_to_check():
    assert sum(len(links(text)) for text in TEXTS.values()) > 50


def test_the_first_page_has_the_lines_of_the_readme():
    (block,) = python_blocks(TEXTS["index.md"])
    assert block.code == python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))[0].code


def test_errors_that_are_quoted_without_an_expression_are_in_the_source():
    quoted = set(re.findall(r"^> (.*)$", TEXTS["troubleshooting.md"], flags=re.MULTILINE)) - {
        text for _, text in ERRORS
    }
    source = "".join(path.read_text(encoding="utf-8") for path in Path(keras_bucketing.__file__).parent.rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)  # literals that go on in the next line
    assert quoted
    assert [text for text in sorted(quoted) if text not in source] == []


@pytest.mark.parametrize(("expression", "text"), ERRORS)
def test_an_error_has_the_text_that_is_quoted(expression: str, text: str):
    names = {**vars(keras_bucketing), "np": np, "pickle": pickle, "tf": tf}
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        eval(expression, names)


def test_the_command_builds_the_site_strictly():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    command = re.search(r"<!-- docs command -->\n```bash\n(.*?)```", contributing, flags=re.DOTALL)
    assert command, "CONTRIBUTING.md has no docs command"
    assert "--fail-on-warning --nitpicky" in command[1]
    assert command[1].endswith(" docs site\n")


def test_every_page_is_in_the_navigation():
    entries = []
    for page, text in TEXTS.items():
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            entries += [(Path(page).parent / f"{name}.md").as_posix() for name in names]
    assert sorted(entries) == sorted(set(TEXTS) - {"index.md"})


def test_the_api_page_describes_every_public_name():
    directive = r"^\.\. auto(?:class|function):: keras_bucketing\.(\w+)$"
    described = re.findall(directive, TEXTS["api.md"], flags=re.MULTILINE)
    assert sorted(described) == sorted(keras_bucketing.__all__)
    listed = re.findall(r"^\| \[`(\w+)`\]", TEXTS["api.md"], flags=re.MULTILINE)
    assert sorted(listed) == sorted(keras_bucketing.__all__)
