"""The books of a run: what became of every dispatched group, in a SQLite file beside the run's checkpoints."""

from xopd.ledger.accounts import Accounts
from xopd.ledger.content import GENESIS, group_content, step_content
from xopd.ledger.ledger import Ledger, LedgerError, LedgerUnavailableError, TrainedGroup, ledger_path

__all__ = [
    "GENESIS",
    "Accounts",
    "Ledger",
    "LedgerError",
    "LedgerUnavailableError",
    "TrainedGroup",
    "group_content",
    "ledger_path",
    "step_content",
]
