"""Labels of a folder's images: by its sub-folders, one for all, or from a file."""

import csv
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from .folders import Listing
from .refusal import Refused

HELP = """sorted: the place of each image's sub-folder among all of them, sorted by name, as torchvision's ImageFolder
counts (the default, if there are as many sub-folders as outputs); numbers: the sub-folders' names are the labels;
a number: that of all images; or a CSV file with a line "path,label" for each image, paths from the folder on"""


class Labels(NamedTuple):
    """The class of each image.

    Attributes:
        values: by path.
        origin: how they were found, for people.
        classes: how many outputs the model should have; None where any number will do that includes them.
    """

    values: dict[pathlib.Path, int]
    origin: str
    classes: int | None


def labels_of(listing: Listing, how: str | None) -> Labels:
    """As ``--labels`` says.

    Raises:
        Refused: it is none of the ways above, or images cannot be labeled that way.
    """
    if how in (None, "sorted", "numbers"):
        return _by_folders(listing, how)
    assert how is not None
    if how.isdecimal():
        return Labels(dict.fromkeys(listing.paths, int(how)), f"all {int(how)}", None)
    if pathlib.Path(how).is_file():
        return Labels(_from_file(pathlib.Path(how), listing.paths), f"from {how}", None)
    raise Refused(f"expected --labels to be sorted, numbers, a label or a CSV file, got {how!r}")


def _by_folders(listing: Listing, how: str | None) -> Labels:
    loose = [path for path in listing.paths if len(path.parts) == 1]
    if loose:
        raise Refused(
            f"expected all images of {listing.folder} in sub-folders, one for each class, got {loose[0]} beside them: "
            "--labels tells labels in other ways"
        )
    names = sorted(entry.name for entry in listing.folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    empty = set(names) - {path.parts[0] for path in listing.paths}
    if empty:
        raise Refused(f"expected PNG or JPEG files in every sub-folder of {listing.folder}, got none in {min(empty)}")
    if how == "numbers":
        for name in names:
            if not name.isdecimal():
                raise Refused(f"expected sub-folders with labels for names (--labels numbers), got {name}")
        by_name = {name: int(name) for name in names}
        return Labels({path: by_name[path.parts[0]] for path in listing.paths}, "the sub-folders' names", None)
    by_name = {name: label for label, name in enumerate(names)}
    if how is None and all(name.isdecimal() for name in names) and any(int(n) != label for n, label in by_name.items()):
        raise Refused(
            f"expected --labels, since the sub-folders have numbers for names that are not their order "
            f"({_first_that_differs(by_name)}): numbers takes the names, sorted the order"
        )
    few = ": " + ", ".join(f"{name} {label}" for name, label in by_name.items()) if len(names) <= 10 else ""
    return Labels(
        {path: by_name[path.parts[0]] for path in listing.paths},
        f"order of the {len(names)} sub-folders{few}",
        len(names) if how is None else None,
    )


def _first_that_differs(by_name: dict[str, int]) -> str:
    name, label = next((name, label) for name, label in by_name.items() if int(name) != label)
    return f"{name} would be {label}"


def _from_file(file: pathlib.Path, paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, int]:
    found: dict[pathlib.Path, int] = {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for number, row in enumerate(csv.reader(lines), 1):
                if len(row) != 2 or not row[1].strip().isdecimal():
                    raise Refused(f'expected lines "path,label" in {file}, got {",".join(row)!r} in line {number}')
                path = pathlib.Path(row[0])
                if path in found:
                    raise Refused(f"expected one label for each image in {file}, got another for {path}")
                found[path] = int(row[1])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"expected a CSV file, got {file}: {error}") from error
    for path in paths:
        if path not in found:
            raise Refused(f"expected a label for every image in {file}, got none for {path}")
    return {path: found[path] for path in paths}
