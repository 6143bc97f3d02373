"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """A mistake in a user's input or surroundings, told in one sentence.

    The message says what was wrong, where, and what to do. Commands print it and exit with status 2; they show
    no traceback for it.
    """


def first_line(error: BaseException) -> str:
    """What an exception says in its first line, to stand in a sentence; its type where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
