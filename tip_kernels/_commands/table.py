"""Tables for people: columns aligned by spaces."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The rows, a line each, with two spaces between columns.

    Args:
        rows: of equally many cells; a header is one of them.
        right: the columns whose cells end together, as those of numbers should.
    """
    columns = range(len(rows[0]))
    widths = [max(len(row[column]) for row in rows) for column in columns]
    lines = []
    for row in rows:
        cells = [f"{row[column]:{'>' if column in right else '<'}{widths[column]}}" for column in columns]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
