"""A talk in a terminal: replies as they come, of two policies side by side; labels and remarks dimmed."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from workflow_scripts.chat.shown import Shown, printable
from workflow_scripts.chat.talk import Reply, Talk

NARROW = 72  # columns, below which two replies stand one under the other
EVERY = 0.1  # seconds between two looks at a reply that comes
MARGIN = 4  # lines of the screen that a reply in the making leaves


class Screen:
    """Where a talk is shown; without a terminal each reply is printed once it is whole."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False, emoji=False)

    def note(self, text: str) -> None:
        """Print what is no reply."""
        self.console.print(Text(printable(text), style="dim"))

    def replies(self, talk: Talk) -> None:
        """Have all speakers reply, and show it."""
        names = [each.name for each in talk.speakers]
        coming: list[Shown | Reply] = []
        with self.watched(names, coming) as drawn:
            for place in range(len(names)):
                coming.append(Shown(""))

                def word(found: Shown, place: int = place) -> None:
                    coming[place] = found
                    drawn()

                coming[place] = talk.reply(place, word if self.console.is_terminal else None)
        self.console.print(self.laid_out(names, coming))

    @contextlib.contextmanager
    def watched(self, names: list[str], coming: list[Any]) -> Iterator[Any]:
        """Show replies as they come, until they are printed whole."""
        if not self.console.is_terminal:
            yield lambda: None
            return
        last = 0.0

        with Live(console=self.console, transient=True, auto_refresh=False) as live:

            def drawn() -> None:
                nonlocal last
                if time.monotonic() - last >= EVERY:
                    last = time.monotonic()
                    live.update(self.laid_out(names, coming, self.console.height - MARGIN), refresh=True)

            yield drawn

    def laid_out(self, names: list[str], replies: list[Any], most: int | None = None) -> RenderableType:
        """Return replies with who says them, side by side where there is room; of each the last `most` lines."""
        beside = len(names) > 1 and self.console.width >= NARROW
        width = self.console.width // len(names) - 2 if beside else self.console.width
        cells = [
            self.cell(
                name + ">" + (" \n"[beside]),
                replies[place] if place < len(replies) else Shown(""),
                width,
                most,
            )
            for place, name in enumerate(names)
        ]
        if not beside:
            return Group(*cells)
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in names:
            grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*cells)
        return grid

    def cell(self, head: str, reply: Shown | Reply, width: int, most: int | None) -> Group:
        """Return one speaker's reply, behind its name."""
        found = reply.shown if isinstance(reply, Reply) else reply
        body = Text(found.said or ("(nothing)" if isinstance(reply, Reply) else "…"))
        if most is not None:
            body = Text("\n").join(body.wrap(self.console, width)[-max(1, most) :])
        below = [found.beside(), reply.remark if isinstance(reply, Reply) else ""]
        dimmed = [Padding(Text(line, style="dim"), (0, 0, 0, 2)) for line in below if line]
        return Group(Text.assemble((head, "bold"), body), *dimmed)
