"""What benchmarks/mutations.py needs inside of the runs of the tests: probes in the package, and a pytest plugin.

`add_probes` puts a call before each statement of each function of the package. The calls set bytes of a mapped file,
and the subprocesses of a test map the same one: what a test executes is known, be it in a thread of TensorFlow's or in
a process that is killed. The plugin has two uses, which the environment asks for:

    MUTATION_MAP      a folder: to a file in it goes a line for each test, its outcome, seconds and statements
    MUTATION_TESTS    a JSON file with the tests to run, in this order; what runs and how it ends is noted beside it
"""

from __future__ import annotations

import ast
import json
import mmap
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

_CONNECTION = """\
import builtins as _builtins
import mmap as _mmap
import os as _os

if "MUTATION_BYTES" in _os.environ:
    with open(_os.environ["MUTATION_BYTES"], "r+b") as _file:
        _builtins.__hit__ = _mmap.mmap(_file.fileno(), 0).__setitem__
else:
    _builtins.__hit__ = bytearray({size}).__setitem__
"""


def add_probes(package: Path) -> dict[str, dict[int, int]]:
    """Puts the probes into a copy of the package.

    Returns:
        Dict from the path of each file, relative to the folder of the package, to a dict from the lines that are in
        functions to the probe that says that they are executed.
    """
    probes: dict[str, dict[int, int]] = {}
    size = 0
    for path in sorted(package.rglob("*.py")):
        text, of_lines = with_probes(path.read_text(encoding="utf-8"), size)
        path.write_text(text, encoding="utf-8")
        probes[path.relative_to(package).as_posix()] = of_lines
        size = max([size, *(probe + 1 for probe in of_lines.values())])
    entrance = package / "__init__.py"
    docstring, rest = entrance.read_text(encoding="utf-8").split("\n", 1)
    entrance.write_text(f"{docstring}\n\n{_CONNECTION.format(size=size)}{rest}", encoding="utf-8")
    return probes


def with_probes(text: str, first: int) -> tuple[str, dict[int, int]]:
    """The source of a module with probes, numbered from `first` on, and the probe of each line in a function."""
    lines = text.splitlines()
    of_lines: dict[int, int] = {}
    before: dict[int, str] = {}
    for function in ast.walk(ast.parse(text)):  # outer ones first: a line ends up with the innermost statement
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            statements = list(_statements(function.body, lines))
            for statement in statements:
                start = min([statement.lineno, *(decorator.lineno for decorator in _decorators(statement))])
                probe = first + len(before)
                before[start] = f"{' ' * statement.col_offset}__hit__({probe}, 1)"
                of_lines.update(dict.fromkeys(range(start, (statement.end_lineno or start) + 1), probe))
            if statements:  # the defaults of its arguments matter where it is called
                header = range(function.lineno, function.body[0].lineno)
                of_lines.update(dict.fromkeys(header, of_lines[statements[0].lineno]))
    new = [part for number, line in enumerate(lines, 1) for part in (before.get(number), line) if part is not None]
    return "\n".join(new) + "\n", of_lines


def _decorators(statement: ast.stmt) -> list[ast.expr]:
    return getattr(statement, "decorator_list", [])


def _statements(body: Sequence[ast.stmt], lines: Sequence[str]) -> Iterator[ast.stmt]:
    """The statements of a function, outer ones first; no docstring, no `elif`, nothing of the functions inside."""
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if not lines[statement.lineno - 1].lstrip().startswith("elif "):
            yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
            parts = [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]
            for block in [*inner, *(part.body for part in parts)]:
                yield from _statements(block, lines)


class MapRecorder:
    """Writes which statements each test executes.

    What a fixture of a module or a session executes, counts for all tests that use it.

    Args:
        folder: Where a file for this process goes.
        size: Int, the number of probes.
    """

    def __init__(self, folder: Path, size: int):
        self._file = folder / f"tests-{os.getpid()}.jsonl"
        of_bytes = folder / f"bytes-{os.getpid()}"
        of_bytes.write_bytes(bytes(size))
        with of_bytes.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 0)
        os.environ["MUTATION_BYTES"] = str(of_bytes)
        self._of_fixtures: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._seconds_of_fixtures = 0.0
        self._outcomes: list[str] = []

    def _take(self) -> set[int]:
        hits = {number for number, byte in enumerate(self._bytes[:]) if byte}
        self._bytes[:] = bytes(len(self._bytes))
        return hits

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Writes one test."""
        self._take()
        self._seconds_of_fixtures = 0.0
        self._outcomes = []
        start = time.perf_counter()
        result = yield
        seconds = time.perf_counter() - start - self._seconds_of_fixtures
        hits = self._take()
        for (base, name), of_fixture in self._of_fixtures.items():
            if item.nodeid.startswith(base) and name in getattr(item, "fixturenames", ()):
                hits |= of_fixture
        outcome = next((one for one in ("failed", "skipped") if one in self._outcomes), "passed")
        test = {"test": item.nodeid, "outcome": outcome, "seconds": round(seconds, 3), "probes": sorted(hits)}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(test) + "\n")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes how a part of a test ended."""
        self._outcomes.append(report.outcome)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Any:
        """Tells what belongs to a fixture that several tests share."""
        if fixturedef.scope == "function":
            return (yield)
        before, start = self._take(), time.perf_counter()
        try:
            return (yield)
        finally:
            self._of_fixtures[fixturedef.baseid, fixturedef.argname] |= self._take()
            self._seconds_of_fixtures += time.perf_counter() - start
            for number in before:
                self._bytes[number] = 1


class ChosenTests:
    """Runs given tests in a given order, and notes what runs and how it ends, for whoever waits for it.

    Args:
        file: A JSON list of the names of the tests; the notes go to a file beside it.
    """

    def __init__(self, file: Path):
        self._order = {name: number for number, name in enumerate(json.loads(file.read_text(encoding="utf-8")))}
        self._notes = file.with_suffix(".notes")

    def _note(self, **facts: Any) -> None:
        with self._notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), **facts}) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        """Keeps hypothesis from looking for the smallest example: any is enough."""
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutations", settings.default, phases=phases, report_multiple_bugs=False)
        settings.load_profile("mutations")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves out the other tests."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid]
        )
        self._note(collected=len(items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes a file that cannot be imported."""
        if report.failed:
            self._note(test=report.nodeid, outcome="failed", error=_last_line(report.longreprtext))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Notes that a test begins."""
        self._note(test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes how a part of a test ended, unless it passed."""
        if report.outcome != "passed":
            self._note(test=report.nodeid, outcome=report.outcome, error=_last_line(report.longreprtext))


def _last_line(text: str) -> str:
    """What pytest marks as the error in a report, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    errors = [line for line in lines if line.startswith("E ")] or lines[-1:]
    return errors[0].removeprefix("E ").strip()[:200]


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Starts before conftest.py imports the package."""
    if "MUTATION_MAP" in os.environ:
        folder = Path(os.environ["MUTATION_MAP"])
        early_config.pluginmanager.register(MapRecorder(folder, int((folder / "size").read_text())))
    if "MUTATION_TESTS" in os.environ:
        early_config.pluginmanager.register(ChosenTests(Path(os.environ["MUTATION_TESTS"])))
