"""Networks that were trained elsewhere: their files, and how they are asked so that they answer on our paths."""

from fm.peers.asking import Peer
from fm.peers.files import PEERS, SCHEDULES, Found, Known, architecture, classes, found_in, learns_variance, read

__all__ = [
    "PEERS",
    "SCHEDULES",
    "Found",
    "Known",
    "Peer",
    "architecture",
    "classes",
    "found_in",
    "learns_variance",
    "read",
]
