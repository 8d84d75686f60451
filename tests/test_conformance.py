"""docs/turn-conformance.md says what the tests say: no clause without a test, no test of a clause that is not there."""

from __future__ import annotations

from collections import Counter

from tests.conformance import TABLE, clause_of, clauses, is_row, with_tests

ROWS = [clause_of(line) for line in TABLE.read_text().splitlines() if is_row(line)]


def test_every_clause_is_there_once_and_has_a_test() -> None:
    held = clauses()
    assert [clause for clause in ROWS if clause not in held] == []
    assert [clause for clause in held if clause not in ROWS] == []
    assert [clause for clause, count in Counter(ROWS).items() if count > 1] == []


def test_the_table_names_the_tests() -> None:
    document = TABLE.read_text()
    assert document == with_tests(document), "python -m tests.conformance writes it"
