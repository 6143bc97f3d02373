"""`make guards` finds the guards, and takes out one at a time."""

from __future__ import annotations

from tools.guards import GUARDED, ROOT, guards_of

SOURCE = """
def check(value):
    _need(value is not None, "there is none")
    if value < 0:
        raise ValueError("is negative")
    if value > 9:
        value = 9
    if value == 5:
        return f"{value} is refused"
    return None
"""


def test_each_guard_is_taken_out_alone():
    guards = list(guards_of("a.py", SOURCE))
    assert [(guard.line, guard.text) for guard in sorted(guards, key=lambda guard: guard.line)] == [
        (3, "_need(value is not None, 'there is none')"),
        (4, "value < 0"),
        (8, "value == 5"),
    ]
    for guard in guards:
        assert guard.without.count("if False:") + guard.without.count("\n    None\n") == 1
        assert "if value > 9:" in guard.without


def test_modules_and_their_tests_are_there_and_hold_guards():
    for path, tests in GUARDED.items():
        assert list(guards_of(path, (ROOT / path).read_text())), path
        assert all((ROOT / test).exists() for test in tests)
