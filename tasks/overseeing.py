"""What the driver of a training finds of its workers while they work: their lines, their silence, their losses."""

from collections.abc import Callable
from pathlib import Path

from fm import errors
from fm.errors import UserError
from fm.files import read_json
from tasks.forwarding import Tails
from tasks.worker import logs_of


class Overseer:
    """Looks into RUN/logs and at what lies in RUN/.ray, the scratch folder, each time it is asked to.

    `say` hears of lost workers, `tell` each line that a worker prints.
    """

    def __init__(
        self, run: Path, scratch: Path, silent_s: float, say: Callable[[str], None], tell: Callable[[str], None]
    ) -> None:
        self.logs, self.scratch, self.silent_s, self.say = logs_of(run), scratch, silent_s, say
        self.tails = Tails(self.logs, tell)

    def look(self) -> None:
        """Raises: UserError if no worker has said anything for `silent_s` (0: for however long); what one left for the
        user to mend.
        """
        self.tails.forward()
        if 0 < self.silent_s < self.tails.silent_s:  # as when a worker waits for ever for one that hangs
            what = f"the workers have said nothing for {self.tails.silent_s:,.0f} s"
            raise UserError(what, str(self.logs), "start again, which goes on from the newest checkpoint")
        for file in sorted(self.scratch.glob("loss-*.json")):
            self.say(f"lost {read_json(file)}; its log is in {self.logs}")
            file.unlink()
        for file in self.scratch.glob("error-*.json"):  # no retry can mend what the user must
            told = read_json(file)
            raise getattr(errors, told.pop("kind"))(**told)

    def end(self) -> None:
        """Forwards what the workers said last."""
        self.tails.forward(last=True)
