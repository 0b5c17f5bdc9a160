"""The segments of a JPEG file up to its first scan: what most headers say, and the file without what nobody needs.

Anything unusual is left to Pillow, which knows all of it.
"""

import re
from typing import NamedTuple

SEGMENT = re.compile(rb"\xff+([\xc0-\xcf\xda-\xfe])(..)", re.DOTALL)  # a marker and the length of what follows
SCAN, METADATA = 0xDA, (*range(0xE0, 0xF0), 0xFE)
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
QUANTIZATION, PASSED_OVER = 0xDB, (0xC4, 0xDD, 0xFE)  # Huffman tables, restart interval, comment
APPLICATIONS = (0xE0, *range(0xE3, 0xED), 0xEE, 0xEF)  # but EXIF, XMP, profiles, further pictures and Photoshop's


class Frame(NamedTuple):
    """What a picture is, in pixels; one channel or three of 8 bits."""

    width: int
    height: int
    channels: int


def plain_frame(data: bytes) -> Frame | None:
    """The frame of a JPEG as most are, in a quarter of Pillow's time: one or three channels, no EXIF or profile, whole
    and nothing odd. None for any other."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    at, frame = 2, None
    while segment := SEGMENT.match(data, at):
        marker, start, at = segment[1][0], segment.end(), segment.start(2) + int.from_bytes(segment[2])
        if not start <= at <= len(data):
            return None
        if marker == SCAN:
            return frame
        if marker in FRAMES and not frame:
            if not (frame := _frame(data[start:at])):
                return None
        elif not _silent(marker, data[start:at]):
            return None
    return None


def _frame(body: bytes) -> Frame | None:
    """What the segment of a frame says, if Pillow has nothing against it."""
    if len(body) not in (9, 15) or len(body) != 6 + 3 * body[5] or body[0] != 8:
        return None
    return Frame(int.from_bytes(body[3:5]), int.from_bytes(body[1:3]), body[5])


def _silent(marker: int, body: bytes) -> bool:
    """Whether Pillow reads nothing of ours in a segment, and nothing that it would refuse."""
    if marker == QUANTIZATION:
        return len(body) % 65 == 0 and all(first < 16 for first in body[::65])  # tables of 8 bits
    return marker in PASSED_OVER or (marker in APPLICATIONS and len(body) >= 7)  # what it reads of JFIF's and Adobe's


def bare(data: bytes) -> bytes:
    """The JPEG without metadata and without bytes between its segments, up to its first scan."""
    kept, at = [data[:2]], 2
    while segment := SEGMENT.search(data, at):
        marker, at = segment[1][0], segment.start(2) + int.from_bytes(segment[2])
        if marker == SCAN:
            return b"".join(kept) + data[segment.start() :]
        if marker not in METADATA:
            kept.append(data[segment.start() : at])
    return data
