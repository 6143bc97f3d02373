"""Redis as the carrier of work: keys, connections, and streams with consumer groups."""

from xopd.streams.connection import connect
from xopd.streams.keys import Keys
from xopd.streams.work import Claim, DeadLetters, WorkStream

__all__ = ["Claim", "DeadLetters", "Keys", "WorkStream", "connect"]
