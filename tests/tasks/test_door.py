"""A door that closes waits for those inside and lets nobody in."""

import threading

import pytest

from fm.errors import UserError
from tasks.door import Door


def test_closing_waits_for_those_inside_and_lets_nobody_in() -> None:
    door, inside, leave, closed = Door(), threading.Event(), threading.Event(), threading.Event()

    def ask() -> None:
        with door.asking():
            inside.set()
            leave.wait(10)

    def close() -> None:
        door.close()
        closed.set()

    asking, closing = threading.Thread(target=ask), threading.Thread(target=close)
    asking.start()
    assert inside.wait(10)
    closing.start()
    assert not closed.wait(0.2)
    with pytest.raises(UserError, match="the work on Ray has ended"), door.asking():
        pass
    leave.set()
    assert closed.wait(10)
    asking.join()
    door.open = True
    with door.asking():
        pass


def test_an_error_inside_leaves_the_door_free() -> None:
    door = Door()
    with pytest.raises(ValueError, match="inside"), door.asking():
        raise ValueError("inside")
    door.close()  # at once
