"""Faults to put into the package: what they are, how they are drawn, and where they are in the source as it is now.

A fault is one line of one function, and what to write instead: files may be renamed and lines may move, and it is still
found. `propose_faults` draws them with a seed, in each folder in proportion to its lines.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MODULE = "<module>"  # the "function" of a line that is in none and in no class
LEAST_A_FOLDER = 4
MOST_A_FUNCTION = 2
# How likely a fault is kept of a kind that nearly any test finds, or that is frequent.
_KEPT = {"returns None": 0.2, "the condition is negated": 0.2, "the error is not raised": 0.4}
_KEPT |= dict.fromkeys(["the statement is gone", "the choices are swapped", "a constant +1", "a constant -1"], 0.5)
_KEPT |= dict.fromkeys(["`not` is gone", "`not in` becomes `in`", "`in` becomes `not in`"], 0.3)
_KEPT |= dict.fromkeys(["`is` becomes `is not`", "`is not` becomes `is`"], 0.3)

_COMPARISONS = {
    **{ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!=")},
    **{ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in")},
    ast.NotIn: ("not in", "in"),
}
_OPERATORS = {
    **{ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "%")},
    **{ast.Mod: ("%", "//"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&")},
}
_NAMES = [
    ("min", "max"),
    ("minimum", "maximum"),
    ("any", "all"),
    ("argmin", "argmax"),
    ("floor", "ceil"),
    ("zeros", "ones"),
]
_OTHER_NAMES = {name: other for pair in _NAMES for name, other in (pair, pair[::-1])}
_NOT_TESTED = ("stacklevel", "strict", "help")  # arguments that are for readers, or a second check of what holds anyway
_OTHER_TEXTS = {"left": "right", "right": "left"}


class Fault(NamedTuple):
    """One line, and what to write instead.

    Attributes:
        function: Str, the function that the line is in, e.g. `EpochPlan.of_shard`; a class, if it is in no function;
            `<module>`, if it is in neither.
        before: Str, the line, without the spaces around it.
        after: Str, the faulty line.
        note: Str, what kind of fault it is.
    """

    function: str
    before: str
    after: str
    note: str


class Place(NamedTuple):
    """Where a fault is: a file, relative to the folder of the package, the number of the line, and its function."""

    file: str
    line: int
    function: str


class SourceLines:
    """The lines of a package by what is in them.

    Args:
        package: The folder.
    """

    def __init__(self, package: Path):
        self.texts = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in package.rglob("*.py")}
        self._places: dict[str, list[Place]] = defaultdict(list)
        for file, text in sorted(self.texts.items()):
            functions = functions_of_lines(ast.parse(text))
            for number, line in enumerate(text.splitlines(), 1):
                self._places[line.strip()].append(Place(file, number, functions.get(number, MODULE)))

    def find(self, fault: Fault) -> Place:
        """Where a fault is: in the function that it names, or else in the only place that has such a line.

        Raises:
            LookupError: If no line is the fault's, or several are. The message says which ones come near.
        """
        places = self._places.get(fault.before, [])
        here = [place for place in places if place.function == fault.function] or places
        if len(here) == 1:
            return here[0]
        if here:
            raise LookupError(f"several such lines: {', '.join(f'{place.file}:{place.line}' for place in here)}")
        there = [
            line for line, of_line in self._places.items() if any(one.function == fault.function for one in of_line)
        ]
        near = difflib.get_close_matches(fault.before, there or list(self._places), n=1)
        raise LookupError(f"no such line{''.join(f'; near: {line}' for line in near)}")

    def with_fault(self, fault: Fault) -> tuple[Place, str]:
        """Where a fault is, and the text of that file with the fault in it."""
        place = self.find(fault)
        lines = self.texts[place.file].splitlines(keepends=True)
        lines[place.line - 1] = lines[place.line - 1].replace(fault.before, fault.after)
        return place, "".join(lines)


def functions_of_lines(tree: ast.Module) -> dict[int, str]:
    """Dict from the number of each line that is in a function or a class to the name of the innermost one."""
    names: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = f"{name}.{child.name}".lstrip(".")
                names.update(dict.fromkeys(range(child.lineno, (child.end_lineno or child.lineno) + 1), inner))
            visit(child, inner)

    visit(tree, "")
    return names


def folder_of(file: str) -> str:
    """The folder of a file of the package; `.` for those in none."""
    return file.partition("/")[0] if "/" in file else "."


def propose_faults(package: Path, count: int, seed: int) -> list[Fault]:
    """Draws faults: in each folder in proportion to its lines, one a line at most, and two a function.

    Args:
        package: The folder.
        count: Int, how many.
        seed: Int.
    """
    source = SourceLines(package)
    generator = random.Random(seed)
    of_folders: dict[str, dict[tuple[str, str], list[Fault]]] = defaultdict(lambda: defaultdict(list))
    lines: Counter[str] = Counter()
    for file, text in sorted(source.texts.items()):
        lines[folder_of(file)] += len(text.splitlines())
        for fault in proposals(text):
            if _can_be_found(source, fault):
                of_folders[folder_of(file)][fault.function, fault.before].append(fault)
    drawn: list[Fault] = []
    for folder, share in _shares(lines, count).items():
        candidates = sorted(of_folders[folder].items())
        generator.shuffle(candidates)
        of_functions: Counter[str] = Counter()
        chosen: list[Fault] = []
        for (function, _), faults in candidates:
            note = generator.choice(sorted({fault.note for fault in faults}))
            is_kept = generator.random() < _KEPT.get(note, 1)
            if len(chosen) < share and of_functions[function] < MOST_A_FUNCTION and is_kept:
                chosen.append(generator.choice([fault for fault in faults if fault.note == note]))
                of_functions[function] += 1
        drawn += sorted(chosen)
    return drawn


def _can_be_found(source: SourceLines, fault: Fault) -> bool:
    try:
        _, text = source.with_fault(fault)
        ast.parse(text)
    except (LookupError, SyntaxError):
        return False
    return True


def _shares(lines: Mapping[str, int], count: int) -> dict[str, int]:
    """How many faults each folder gets: a few at least, the others by the largest remainders."""
    total = sum(lines.values())
    exact = {folder: max(LEAST_A_FOLDER, count * number / total) for folder, number in sorted(lines.items())}
    above = {folder: number - LEAST_A_FOLDER for folder, number in exact.items()}
    scale = (count - LEAST_A_FOLDER * len(exact)) / sum(above.values())
    exact = {folder: LEAST_A_FOLDER + scale * number for folder, number in above.items()}
    shares = {folder: int(number) for folder, number in exact.items()}
    for folder in sorted(exact, key=lambda name: shares[name] - exact[name])[: count - sum(shares.values())]:
        shares[folder] += 1
    return shares


def proposals(text: str) -> Iterator[Fault]:
    """All faults that can be made of a module: not in docstrings, annotations, the text of errors, `__repr__`."""
    tree = ast.parse(text)
    lines = text.splitlines()
    functions = functions_of_lines(tree)
    for node in _code(tree):
        for note, (first, begin), (last, end), new in _edits(node, lines):
            line = lines[first - 1]
            if first == last and line.strip() and _characters(line, begin) >= 0:
                begin, end = _characters(line, begin), _characters(line, end)
                after = f"{line[:begin]}{new}{line[end:]}".strip()
                if after != line.strip():
                    yield Fault(functions.get(first, MODULE), line.strip(), after, note)


def _characters(line: str, num_bytes: int) -> int:
    """An offset in characters: `ast` counts bytes."""
    return len(line.encode()[:num_bytes].decode(errors="ignore"))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below a node in which a fault is one of behavior."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_text(child):
                continue
            yield child
            if not isinstance(child, ast.Raise):
                yield from _code(child)


def _is_text(node: ast.AST) -> bool:
    """Whether a node is for readers and for type checkers."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name == "__repr__"
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    if isinstance(node, ast.Assign):
        return re.fullmatch(r"__all__|_?[A-Z][a-z]\w*", ast.unparse(node.targets[0])) is not None  # or a name of types
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.keyword):
        return node.arg in _NOT_TESTED
    return isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom))


Position = tuple[int, int]
Edit = tuple[str, Position, Position, str]  # what kind, from where to where, and what to write there


def _edits(node: ast.AST, lines: list[str]) -> Iterator[Edit]:
    """The edits that make a fault of a node."""
    for maker in _MAKERS.get(type(node), ()):
        yield from maker(node, lines)


def _start(node: ast.AST) -> Position:
    return node.lineno, node.col_offset  # type: ignore[attr-defined]


def _end(node: ast.AST) -> Position:
    return node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]


def _source(node: ast.AST, lines: list[str]) -> str:
    """The source of a node on one line."""
    (line, begin), (_, end) = _start(node), _end(node)
    return lines[line - 1].encode()[begin:end].decode()


def _between(left: ast.AST, right: ast.AST, old: str, new: str, note: str, lines: list[str]) -> Iterator[Edit]:
    """Replaces a word or sign between two nodes."""
    (first, begin), (last, end) = _end(left), _start(right)
    if first != last:  # where the line breaks before the sign, it begins the last one
        first, begin = last, 0
    found = lines[first - 1].encode()[begin:end].decode().rfind(f"{old} ")
    if found >= 0:
        yield note, (first, begin + found), (first, begin + found + len(old)), new


def _compared(node: ast.Compare, lines: list[str]) -> Iterator[Edit]:
    old, new = _COMPARISONS[type(node.ops[0])]
    yield from _between(node.left, node.comparators[0], old, new, f"`{old}` becomes `{new}`", lines)


def _computed(node: ast.BinOp, lines: list[str]) -> Iterator[Edit]:
    is_text = any(
        isinstance(side, (ast.Constant, ast.JoinedStr, ast.List)) for side in (node.left, node.right)
    ) and not (isinstance(node.right, ast.Constant) and isinstance(node.right.value, (int, float)))
    if type(node.op) in _OPERATORS and not is_text:
        old, new = _OPERATORS[type(node.op)]
        yield from _between(node.left, node.right, old, new, f"`{old}` becomes `{new}`", lines)


def _combined(node: ast.BoolOp, lines: list[str]) -> Iterator[Edit]:
    old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in itertools.pairwise(node.values):
        yield from _between(left, right, old, new, f"`{old}` becomes `{new}`", lines)


def _negated(node: ast.UnaryOp, lines: list[str]) -> Iterator[Edit]:
    if isinstance(node.op, ast.Not):
        yield "`not` is gone", _start(node), _start(node.operand), ""
    elif isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "the sign is gone", _start(node), _start(node.operand), ""


def _constant(node: ast.Constant, lines: list[str]) -> Iterator[Edit]:
    if isinstance(node.value, bool):
        yield "the other truth value", _start(node), _end(node), str(not node.value)
    elif isinstance(node.value, int):
        for step in (1, -1):
            yield f"a constant {step:+d}", _start(node), _end(node), str(node.value + step)
    elif node.value in _OTHER_TEXTS:
        yield "the other side", _start(node), _end(node), f'"{_OTHER_TEXTS[node.value]}"'


def _returned(node: ast.Return, lines: list[str]) -> Iterator[Edit]:
    if node.value is not None and not isinstance(node.value, ast.Constant):
        yield "returns None", _start(node), _end(node), "return None"


def _called(node: ast.Call, lines: list[str]) -> Iterator[Edit]:
    if isinstance(node.func, (ast.Name, ast.Attribute)):
        line, end = _end(node.func)
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if name in _OTHER_NAMES:
            other = _OTHER_NAMES[name]
            yield f"`{name}` becomes `{other}`", (line, end - len(name)), (line, end), other
    arguments = [*node.args, *node.keywords]
    for before, keyword in itertools.pairwise(arguments):
        if isinstance(keyword, ast.keyword) and keyword.arg not in (None, *_NOT_TESTED):
            yield "an argument is dropped", _end(before), _end(keyword), ""


def _sliced(node: ast.Slice, lines: list[str]) -> Iterator[Edit]:
    for bound in (node.lower, node.upper):
        if bound is not None and not isinstance(bound, (ast.Constant, ast.UnaryOp)):
            yield "a bound one further", _end(bound), _end(bound), " + 1"
        if bound is not None:
            yield "a bound is dropped", _start(bound), _end(bound), ""


def _chosen(node: ast.IfExp, lines: list[str]) -> Iterator[Edit]:
    if node.lineno == node.end_lineno:
        one, test, other = (_source(part, lines) for part in (node.body, node.test, node.orelse))
        yield "the choices are swapped", _start(node), _end(node), f"{other} if {test} else {one}"


def _condition(node: ast.If, lines: list[str]) -> Iterator[Edit]:
    if node.test.lineno == node.test.end_lineno and not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
        test = _source(node.test, lines)
        test = f"({test})" if isinstance(node.test, ast.BoolOp) else test
        yield "the condition is negated", _start(node.test), _end(node.test), f"not {test}"


def _deleted(node: ast.stmt, lines: list[str]) -> Iterator[Edit]:
    if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Yield, ast.YieldFrom)):
        return  # a function that is no generator any more
    note = "the error is not raised" if isinstance(node, ast.Raise) else "the statement is gone"
    yield note, _start(node), _end(node), "pass"


_MAKERS: dict[type[ast.AST], Iterable[Callable[..., Iterator[Edit]]]] = {
    ast.Compare: [_compared],
    ast.BinOp: [_computed],
    ast.BoolOp: [_combined],
    ast.UnaryOp: [_negated],
    ast.Constant: [_constant],
    ast.Return: [_returned],
    ast.Call: [_called],
    ast.Slice: [_sliced],
    ast.IfExp: [_chosen],
    ast.If: [_condition],
    **{kind: [_deleted] for kind in (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)},
}
