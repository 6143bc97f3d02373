"""Redis as the carrier of work: keys, connections, and streams with consumer groups."""

from xopd.streams.connection import connect
from xopd.streams.dead import DeadLetters
from xopd.streams.keys import Keys
from xopd.streams.work import Claim, WorkStream

__all__ = ["Claim", "DeadLetters", "Keys", "WorkStream", "connect"]
