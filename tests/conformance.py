"""The table of docs/turn-conformance.md: which tests hold which clause. `python -m tests.conformance` writes it anew.

A test says `@pytest.mark.clause("8656 §7.2: 5-tuple in use -> 437")`; the text is a row's first column. Rows are kept
by hand, so that a clause without a test is seen.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "turn-conformance.md"


def clauses() -> dict[str, list[str]]:
    """The tests that hold each clause, as `path::name`, in the order of the files."""
    held: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, clause in _marks(ast.parse(path.read_text())):
            test = f"{path.relative_to(ROOT)}::{name}"
            if test not in held[clause]:
                held[clause].append(test)
    return dict(held)


def _marks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            # Also within parametrize: a case of its own may hold a clause of its own.
            for decorator in node.decorator_list:
                for call in ast.walk(decorator):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.clause":
                        [text] = call.args
                        assert isinstance(text, ast.Constant), f"{node.name}: a clause is named in its own words"
                        yield node.name, str(text.value)


def is_row(line: str) -> bool:
    """Whether a line of the document names a clause."""
    return line.startswith("| ") and not line.startswith("| Clause ")


def clause_of(line: str) -> str:
    """The first column of a row."""
    return line[2:].partition(" |")[0]


def with_tests(document: str) -> str:
    """The document with its rows' second column as the tests say it; empty where none holds the clause."""
    held = clauses()

    def written(line: str) -> str:
        return _row(clause_of(line), held.get(clause_of(line), [])) if is_row(line) else line

    return "\n".join(map(written, document.splitlines())) + "\n"


def _row(clause: str, tests: list[str]) -> str:
    by_file: defaultdict[str, list[str]] = defaultdict(list)
    for test in tests:
        path, _, name = test.partition("::")
        by_file[path].append(name)
    shown = [f"[{Path(path).name}](../{path}): {', '.join(names)}" for path, names in by_file.items()]
    return f"| {clause} | {'; '.join(shown)} |"


def main() -> int:
    document = TABLE.read_text()
    TABLE.write_text(with_tests(document))
    rows = [clause_of(line) for line in document.splitlines() if is_row(line)]
    held = clauses()
    for clause in rows:
        if clause not in held:
            print(f"no test: {clause}")
    for clause in held:
        if clause not in rows:
            print(f"no row:  {clause}")
    return int(set(rows) != set(held))


if __name__ == "__main__":
    sys.exit(main())
