"""Puts faults into the package, one at a time, and shows which of them the tests find.

mutations.json names each fault by its function, its line and what the line becomes, so that the same ones can be put
into the package before and after a change of its files or of its tests:

    python -m benchmarks.mutations propose --seed 0     draws 120 faults, and writes them to mutations.json
    python -m benchmarks.mutations locate               where they are now; those that are nowhere need another line
    python -m benchmarks.mutations map                  runs all tests once: which statements does each execute?
    python -m benchmarks.mutations run --output FILE    runs the tests against each fault, and writes a record
    python -m benchmarks.mutations table FILE ...       found and survived by folder, of one record or several

A fault is put into a copy of the working tree, never into the tree itself. Those tests run that execute its line, the
quickest ones and those of its own folder first, up to the first that fails: in a process that is forked from one that
has imported TensorFlow and Keras. hypothesis draws the same examples every time. `--select="-m 'not fit'"` keeps to
the tests that pytest selects with these arguments. After a change of the package or of the tests, `map` must run again.
The verdicts:

    found       a test failed, or the process crashed
    timeout     a test did not end that does without the fault: found, too
    survived    all tests passed that execute the line, as far as `--limit` seconds of tests go
    not found   the line is not in the package: the list needs another one

mutations_0.2.0.json is the record of version 0.2.0, with all of its tests; mutations_0.3.0.json that of the next one,
where `layer` says whether the default layer found the fault. The `judgement` of each fault that survived was written by
hand: is it none, or is a test missing?
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.mutation_faults import Fault, Place, SourceLines, folder_of, propose_faults
from benchmarks.mutation_plugin import add_probes

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_bucketing"
FAULTS = Path(__file__).parent / "mutations.json"
VERDICTS = ("found", "timeout", "survived", "not found")

_PLUGIN = ["-p", "benchmarks.mutation_plugin", "-p", "no:cacheprovider"]
_FIRST_SECONDS = (8.0, 60.0)  # how long the tests of the first rounds take; the last one has all others
_FIRST_TESTS = 60
_NOTHING_RAN = (4, 5)  # how pytest ends where its arguments are wrong or select nothing
_PATIENCE = 90.0  # seconds; with ten times what a test takes without a fault, it is taken to hang


class Run(NamedTuple):
    """How the tests went.

    Attributes:
        verdict: Str, `found`, `timeout` or `survived`.
        tests: The tests that failed or did not end.
        error: Str, the first error, on one line.
    """

    verdict: str
    tests: list[str]
    error: str


@dataclass
class Suite:
    """The tests, and what they execute.

    Attributes:
        seconds: Dict from the names of the tests that pass to how long they take.
        of_probes: Dict from each probe to the tests that come by.
        probes: Dict from each file of the package to a dict from its lines to their probes.
    """

    seconds: dict[str, float]
    of_probes: dict[int, set[str]]
    probes: dict[str, dict[int, int]]

    @classmethod
    def read(cls, work: Path, selected: Set[str] | None) -> Suite:
        """Reads what `map` has written, and keeps to the tests that are selected; None for all."""
        probes = {
            file: {int(line): probe for line, probe in of_lines.items()}
            for file, of_lines in json.loads((work / "probes.json").read_text()).items()
        }
        seconds: dict[str, float] = {}
        of_probes: dict[int, set[str]] = {}
        for test in read_lines(*(work / "map").glob("*.jsonl")):
            if test["outcome"] == "passed" and (selected is None or test["test"] in selected):
                seconds[test["test"]] = test["seconds"]
                for probe in test["probes"]:
                    of_probes.setdefault(probe, set()).add(test["test"])
        return cls(seconds, of_probes, probes)

    def tests_for(self, place: Place) -> list[str]:
        """The tests that execute a line, in the order in which they are tried.

        A line outside of functions is executed as its file is imported: all tests count that execute any function of
        the file, or else those of its folder.
        """
        of_lines = self.probes[place.file]
        chosen = [of_lines[place.line]] if place.line in of_lines else sorted(set(of_lines.values()))
        tests = set().union(*(self.of_probes.get(probe, ()) for probe in chosen))
        if not tests and place.line not in of_lines:
            tests = {test for test in self.seconds if is_near(test, place)}
        costs: dict[str, float] = {}
        alike: Counter[str] = Counter()
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            function = test.partition("[")[
                0
            ]  # with other parameters it hardly finds what it did not find with the first
            alike[function] += 1
            costs[test] = (self.seconds[test] + 0.02) * alike[function] * (1 if is_near(test, place) else 3)
        return sorted(costs, key=lambda test: (costs[test], test))

    def rounds(self, tests: Sequence[str]) -> Iterator[list[str]]:
        """Parts tests into a few quick ones, some more, and all others; each part ordered by files."""
        rest = list(tests)
        for most in _FIRST_SECONDS:
            taken, seconds = 0, 0.0
            while taken < min(len(rest), _FIRST_TESTS) and seconds <= most:
                seconds += self.seconds[rest[taken]]
                taken += 1
            yield by_files(rest[:taken])
            rest = rest[taken:]
        yield by_files(rest)

    def within(self, tests: Sequence[str], limit: float) -> list[str]:
        """The first tests that together take no longer than `limit` seconds; one at least."""
        kept, seconds = [], 0.0
        for test in tests:
            seconds += self.seconds[test]
            if not kept or seconds <= limit:
                kept.append(test)
        return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=Path, default=FAULTS, help="the list of faults")
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "mutations", help="where copies and maps go")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    commands = parser.add_subparsers(dest="command", required=True)
    propose = commands.add_parser("propose", help="draw faults")
    propose.add_argument("--count", type=int, default=120)
    propose.add_argument("--seed", type=int, default=0)
    commands.add_parser("locate", help="where the faults are now")
    mapping = commands.add_parser("map", help="run all tests once, and note what they execute")
    run = commands.add_parser("run", help="run the tests against the faults")
    for command in (mapping, run):
        command.add_argument("--select", default="", help="arguments of pytest, which select tests")
    run.add_argument("--limit", type=float, default=300, help="seconds of tests a fault")
    run.add_argument("--only", type=int, nargs="*", help="the numbers of the faults, from 0 on")
    run.add_argument(
        "--keep", type=Path, help="a record, or settled.json of a run that was interrupted: what it settles stays"
    )
    run.add_argument("--output", type=Path, required=True, help="the record")
    table = commands.add_parser("table", help="print records")
    table.add_argument("records", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    {"propose": write_faults, "locate": locate, "map": write_map, "run": run_all, "table": show}[options.command](
        options
    )


def write_faults(options: argparse.Namespace) -> None:
    """Draws the list."""
    faults = propose_faults(PACKAGE, options.count, options.seed)
    options.faults.write_text(json.dumps([fault._asdict() for fault in faults], indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.faults}, {len(faults)} faults")


def read_faults(options: argparse.Namespace) -> list[Fault]:
    """The list."""
    return [Fault(**fault) for fault in json.loads(options.faults.read_text(encoding="utf-8"))]


def locate(options: argparse.Namespace) -> None:
    """Prints where the faults are, and which of them are nowhere or in a function of another name."""
    source = SourceLines(PACKAGE)
    lines = [_located(source, number, fault) for number, fault in enumerate(read_faults(options))]
    print("\n".join(lines))
    print(f"not found: {sum('NOT FOUND' in line for line in lines)}")


def _located(source: SourceLines, number: int, fault: Fault) -> str:
    try:
        place = source.find(fault)
    except LookupError as error:
        return f"{number}: NOT FOUND in {fault.function}: {fault.before}\n     {error}"
    moved = "" if place.function == fault.function else f", not in {fault.function}"
    return f"{number}: {place.file}:{place.line} in {place.function}{moved}"


def copy_tree(target: Path) -> Path:
    """Copies the files of the working tree that git knows or does not ignore."""
    shutil.rmtree(target, ignore_errors=True)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def environment_of(tree: Path, **added: str) -> dict[str, str]:
    """The environment in which the tests of a copy run, and their subprocesses too."""
    return {**os.environ, "PYTHONPATH": str(tree), "CI": "true", "TF_CPP_MIN_LOG_LEVEL": "2", **added}


def write_map(options: argparse.Namespace) -> None:
    """Runs all tests once, with probes in the package."""
    tree, folder = copy_tree(options.work / "mapped"), options.work / "map"
    probes = add_probes(tree / "keras_bucketing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "size").write_text(str(1 + max(probe for of_lines in probes.values() for probe in of_lines.values())))
    (options.work / "probes.json").write_text(json.dumps(probes))
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(options.jobs), *_PLUGIN, *shlex.split(options.select)]
    finished = subprocess.run(command, cwd=tree, env=environment_of(tree, MUTATION_MAP=str(folder)), check=False)
    outcomes = Counter(test["outcome"] for test in read_lines(*folder.glob("*.jsonl")))
    print(f"pytest ended with {finished.returncode}; tests: {dict(outcomes)}")


def read_lines(*paths: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in the lines of files; the last line may not be complete yet."""
    for path in sorted(paths):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def is_near(test: str, place: Place) -> bool:
    """Whether a test lies in the folder that belongs to a file of the package, or is its doctest."""
    folder, stem = folder_of(place.file), Path(place.file).stem
    file = test.partition("::")[0]
    return file == f"keras_bucketing/{place.file}" or file.startswith(f"tests/{folder}/") or stem in Path(file).stem


def by_files(tests: Sequence[str]) -> list[str]:
    """Orders tests so that those of one file come together, files and tests as they come first."""
    files = {test.partition("::")[0]: None for test in tests}
    return [test for file in files for test in tests if test.partition("::")[0] == file]


def select(options: argparse.Namespace, tree: Path) -> set[str]:
    """The tests that pytest selects; its caches of compiled files stay in the tree."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *_PLUGIN, *shlex.split(options.select)]
    listed = subprocess.run(command, cwd=tree, env=environment_of(tree), check=True, capture_output=True, text=True)
    return {line for line in listed.stdout.splitlines() if "::" in line}


def run_all(options: argparse.Namespace) -> None:
    """Runs the tests against the faults, and writes the record."""
    start = time.time()
    tree = copy_tree(options.work / "unchanged")
    suite = Suite.read(options.work, select(options, tree))
    faults = read_faults(options)
    numbers = range(len(faults)) if options.only is None else options.only
    examiner = Examiner(options.work, suite, options.limit)
    quickest = sorted(suite.seconds, key=suite.seconds.__getitem__)[:20]
    if (run := examiner.run(tree, "control", quickest)).verdict != "survived":
        raise RuntimeError(f"The tests do not run without a fault: {run}. See {options.work / 'control.log'}.")
    kept = read_settled(options.keep, faults) if options.keep else {}
    results = examine_all(examiner, {number: faults[number] for number in numbers if number not in kept}, options.jobs)
    # What finds a fault must pass without it, in the same kind of process.
    killers = sorted({test for result in results.values() for test in result["tests"] if test in suite.seconds})
    broken = set(examiner.run(tree, "control", by_files(killers), first_only=False).tests)
    again = {number: faults[number] for number, result in results.items() if broken & set(result["tests"])}
    if again:
        print(f"fail without a fault, and are left out: {', '.join(sorted(broken))}")
        results |= examine_all(Examiner(options.work, suite, options.limit, broken), again, options.jobs)
    results |= kept
    record = {
        "tests": {
            "select": options.select,
            "number": len(suite.seconds),
            "limit": options.limit,
            "broken": sorted(broken),
        },
        "seconds": round(time.time() - start),
        "faults": [results[number] for number in sorted(results)],
    }
    write_record(options.output, record)
    show(argparse.Namespace(records=[options.output]))


def read_settled(path: Path, faults: Sequence[Fault]) -> dict[int, dict[str, Any]]:
    """What a record says of the faults that were found, or that survived all tests, by their numbers in the list."""
    of_faults = {
        Fault(*(fault[name] for name in Fault._fields)): fault
        for fault in json.loads(path.read_text(encoding="utf-8"))["faults"]
        if fault["verdict"] in ("found", "timeout")
        or (fault["verdict"] == "survived" and fault["num_tried"] == fault["num_covering"])
    }
    return {number: of_faults[fault] for number, fault in enumerate(faults) if fault in of_faults}


def examine_all(examiner: Examiner, faults: dict[int, Fault], jobs: int) -> dict[int, dict[str, Any]]:
    """Examines faults in processes that have imported TensorFlow and Keras."""
    results: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), initializer=import_libraries) as pool:
        futures = [pool.submit(examiner.examine, number, fault) for number, fault in faults.items()]
        for future in as_completed(futures):
            number, result = future.result()
            results[number] = result
            (examiner.work / "settled.json").write_text(
                json.dumps({"faults": list(results.values())}), encoding="utf-8"
            )
            by = "; ".join([*result["tests"][:1], result["error"]])
            print(
                f"{len(results)}/{len(faults)} #{number} {result['verdict']}, {result['seconds']} s: {by}", flush=True
            )
    return results


def import_libraries() -> None:
    """Imports what takes long, nothing of the package, and no plugin of pytest's, which warns of that."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    for name in ("tensorflow", "keras", "pytest"):
        importlib.import_module(name)


class Examiner:
    """Runs tests against faults.

    Args:
        work: The folder with the copy of the tree.
        suite: The tests.
        limit: Float, seconds of tests a fault.
        broken: Tests that do not count.
    """

    def __init__(self, work: Path, suite: Suite, limit: float, broken: Set[str] = frozenset()):
        self.work = work
        self._suite = suite
        self._limit = limit
        self._broken = broken

    def examine(self, number: int, fault: Fault) -> tuple[int, dict[str, Any]]:
        """The part of the record that is about a fault."""
        start = time.time()
        result: dict[str, Any] = {**fault._asdict(), "verdict": "not found", "tests": [], "error": ""}
        source = SourceLines(self.work / "unchanged" / "keras_bucketing")
        try:
            place, text = source.with_fault(fault)
        except LookupError as error:
            return number, {**result, "error": str(error), "seconds": 0.0}
        covering = [test for test in self._suite.tests_for(place) if test not in self._broken]
        tests = self._suite.within(covering, self._limit)
        name = f"fault-{number}"
        tree = self.work / name
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(self.work / "unchanged", tree)
        (tree / "keras_bucketing" / place.file).write_text(text, encoding="utf-8")
        ran = 0
        run = Run("survived", [], "" if tests else "no test executes the line")
        for part in self._suite.rounds(tests):
            if part and run.verdict == "survived":
                run = self.run(tree, name, part)
                ran += len(part)
        shutil.rmtree(tree, ignore_errors=True)
        result |= {"file": place.file, "line": place.line, **run._asdict(), "seconds": round(time.time() - start, 1)}
        return number, {**result, "num_covering": len(covering), "num_tried": ran}

    def run(self, tree: Path, name: str, tests: list[str], first_only: bool = True) -> Run:
        """Runs tests in a forked process.

        Args:
            tree: The copy that they are in.
            name: Str, of the files about it.
            tests: Their names, in order.
            first_only: Whether to end with the first that fails.
        """
        if not tests:
            return Run("survived", [], "")
        file = self.work / f"{name}.json"
        notes = file.with_suffix(".notes")
        file.write_text(json.dumps(tests), encoding="utf-8")
        notes.unlink(missing_ok=True)
        process = os.fork()
        if not process:
            _run_in_this_process(tree, file, tests, first_only)
        status, hangs = self._wait(process, notes)
        noted = list(read_lines(notes)) if notes.exists() else []
        failed = [note for note in noted if note.get("outcome") == "failed"]
        begun = [note["test"] for note in noted if "test" in note and "outcome" not in note]
        if failed:
            return Run("found", list(dict.fromkeys(note["test"] for note in failed)), failed[0]["error"])
        if hangs:
            return Run("timeout", begun[-1:], "did not end")
        if status and os.waitstatus_to_exitcode(status) in _NOTHING_RAN:
            raise RuntimeError(f"pytest ran no test: see {file.with_suffix('.log')}.")
        if status:
            return Run("found", begun[-1:], f"the process ended with status {status}")
        return Run("survived", [], "")

    def _wait(self, process: int, notes: Path) -> tuple[int, bool]:
        """Waits for a process group; says its status, and whether a test took so long that it was ended."""
        begin = time.time()
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                *_, last = [{}, *(read_lines(notes) if notes.exists() else ())]
                usual = self._suite.seconds.get(last.get("test", ""), 0.0)
                hangs = time.time() - last.get("time", begin) > _PATIENCE + 10 * usual
            if ended or hangs:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)  # what a test has started ends with it
                if not ended:
                    os.waitpid(process, 0)
                return status, not ended
            time.sleep(0.1)


def _run_in_this_process(tree: Path, file: Path, tests: Sequence[str], first_only: bool) -> None:
    """Runs tests as pytest does, and ends the process."""
    status = 1
    try:
        os.setsid()
        log = os.open(file.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(tree)
        os.environ.clear()
        os.environ.update(environment_of(tree, MUTATION_TESTS=str(file)))
        for name in [name for name in sys.modules if name.partition(".")[0] in ("benchmarks", "keras_bucketing")]:
            del sys.modules[name]
        sys.path[:] = [str(tree), *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT)]
        sys.argv = ["pytest"]
        import pytest

        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        # `-m ""`: in whatever layer they are.
        arguments = ["-q", "-m", "", *_PLUGIN, f"--basetemp={file.with_suffix('.tmp')}", *["-x"] * first_only, *files]
        status = int(pytest.main(arguments))
        shutil.rmtree(file.with_suffix(".tmp"), ignore_errors=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record, with date, processors and versions."""
    from benchmarks.harness import environment  # imports the package

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": environment(), **record}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


def show(options: argparse.Namespace) -> None:
    """Prints the verdicts of records by folder, those that survived, and what differs from the first record."""
    from benchmarks.tables import Table, environment_line

    first: dict[str, str] = {}
    for path in options.records:
        record = json.loads(path.read_text(encoding="utf-8"))
        faults = record["faults"]
        counts = Counter((folder_of(fault.get("file", "?/")), fault["verdict"]) for fault in faults)
        folders = sorted({folder for folder, _ in counts})
        rows = [[folder, *(str(counts[folder, verdict]) for verdict in VERDICTS)] for folder in folders]
        rows.append(["all", *(str(sum(counts[folder, verdict] for folder in folders)) for verdict in VERDICTS)])
        note = f"{environment_line(record)}; {record['tests']['number']} tests, {record['seconds']} s"
        print(f"\n{Table('mutations', str(path), ['folder', *VERDICTS], rows, note).as_text()}\n")
        for number, fault in enumerate(faults):
            if fault["verdict"] not in ("found", "timeout"):
                print(f"{number}: {fault['verdict']}: {fault.get('file', '?')}, {fault['function']}: {fault['note']}")
                print(f"    - {fault['before']}\n    + {fault['after']}\n    {fault.get('judgement', '')}")
        verdicts = {
            json.dumps([fault["function"], fault["note"], fault["after"]]): fault["verdict"] for fault in faults
        }
        for fault, verdict in verdicts.items():
            if first and first.get(fault, verdict) != verdict:
                print(f"was {first[fault]}, is {verdict}: {fault}")
        first = first or verdicts


if __name__ == "__main__":
    main()
