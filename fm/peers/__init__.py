"""Networks that were trained elsewhere: their files, and how they are asked so that they answer on our paths."""

from fm.peers.asking import Peer
from fm.peers.files import Found, architecture, classes, found_in, heads_first, read

__all__ = ["Found", "Peer", "architecture", "classes", "found_in", "heads_first", "read"]
