"""Tables in Markdown pages, each between two marks: ``<!-- NAME: begins -->`` and ``<!-- NAME: ends -->``."""

import pathlib


def publish(page: pathlib.Path, table: str, text: str) -> None:
    """Replaces what is between the table's two marks in the page.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {table}: begins -->\n", f"<!-- {table}: ends -->"
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"expected {begin.strip()} and {end} in {page}, got none")
    page.write_text(f"{before}{begin}{text}\n{end}{after}")
