"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """A mistake in a user's input or surroundings, told in one sentence.

    The message says what was wrong, where, and what to do. Commands print it and exit with status 2; they show
    no traceback for it.
    """


def first_line(error: BaseException) -> str:
    """An exception's first line, without its full stop, to stand inside a sentence; its type where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
