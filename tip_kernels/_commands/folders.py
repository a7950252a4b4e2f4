"""Images of a folder, as models take them: which files there are, which are used, and how they become a tensor."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .refusal import Refused, one_line

SUFFIXES = (".png", ".jpg", ".jpeg")
COLORS = {1: "L", 3: "RGB"}
"""Pillow's modes by the number of channels."""


class Form(NamedTuple):
    """What images shall become.

    Attributes:
        size: height and width: scaled until they cover it, then cropped around the center; None: as they are, and all
            the same.
        channels: 1, gray, or 3, colors, into which all are turned; None: as they are, and all the same.
    """

    size: tuple[int, int] | None
    channels: int | None


class Listing(NamedTuple):
    """The images below a folder.

    Attributes:
        folder: itself.
        paths: from there, sorted part by part.
        others: how many files are no images; hidden ones do not count.
    """

    folder: pathlib.Path
    paths: list[pathlib.Path]
    others: int


def listed(option: str, folder: pathlib.Path) -> Listing:
    """PNG and JPEG files of a folder and those below it.

    Raises:
        Refused: there is no such folder, or no such file in it, or one below it cannot be read or comes twice.
    """

    def refuse(error: OSError) -> None:
        raise Refused(f"expected folders that can be read in {folder} ({option}), got {error}")

    if not folder.is_dir():
        raise Refused(f"expected {option} to be a folder, got {folder}")
    paths, others = [], 0
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # links can go around in circles
            raise Refused(f"expected every folder below {folder} once ({option}), got {parent} again, by a link")
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                paths.append(pathlib.Path(parent, name).relative_to(folder))
            else:
                others += not name.startswith(".")
    if not paths:
        raise Refused(f"expected PNG or JPEG files in {folder} ({option}), got none")
    return Listing(folder, sorted(paths, key=lambda path: path.parts), others)


def spread_over(paths: Sequence[pathlib.Path], count: int) -> list[pathlib.Path]:
    """So many of them, evenly over their order: of sorted classes some of each."""
    return [paths[number * len(paths) // count] for number in range(count)]


def read(folder: pathlib.Path, paths: Sequence[pathlib.Path], form: Form) -> torch.Tensor:
    """Images as float32 [N, channels, height, width] in [0, 1].

    Raises:
        Refused: a file is no image of 8 bits a channel, is transparent, or differs from the first in size or colors.
    """
    images: list[torch.Tensor] = []
    for path in paths:
        image = _read_one(folder / path, form)
        if images and image.shape != images[0].shape:
            raise Refused(
                f"expected images alike, got {shown(images[0].shape)} ({paths[0]}) and {shown(image.shape)} ({path}): "
                "--size and --channels turn them into one kind"
            )
        images.append(image)
    return torch.stack(images)


def shown(shape: Sequence[int]) -> str:
    """Channels, height and width for people."""
    return "x".join(map(str, shape))


def _read_one(path: pathlib.Path, form: Form) -> torch.Tensor:
    from PIL import Image

    try:
        with Image.open(path) as file:
            picture = _in_colors(file, form.channels, path)
    except Refused:
        raise
    except Exception as error:  # what broken files raise is not of one kind
        raise Refused(f"expected an image, got {path}: {one_line(error)}") from error
    if form.size is not None and (picture.height, picture.width) != form.size:
        picture = _covering(picture, form.size)
    pixels = torch.from_numpy(np.array(picture))
    channels_last = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels
    return channels_last.permute(2, 0, 1).float() / 255


def _in_colors(picture: Any, channels: int | None, path: pathlib.Path) -> Any:
    if picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise Refused(f"expected gray or RGB images with 8 bits a channel, got {path} of Pillow's mode {picture.mode}")
    if channels is None:
        channels = 1 if picture.mode in ("1", "L", "LA") else 3
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] < 255:
            raise Refused(f"expected images without transparency, got {path}: what is behind it is not known")
    return picture.convert(COLORS[channels])


def _covering(picture: Any, size: tuple[int, int]) -> Any:
    """Scaled with its proportions kept, so that it just covers the size, and cropped around the center."""
    from PIL import Image

    height, width = size
    scale = max(height / picture.height, width / picture.width)
    scaled = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))
