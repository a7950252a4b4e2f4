"""The images of the frameworks' examples, which need none of the frameworks."""

import importlib
import io
import pathlib

import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

ROOT = pathlib.Path(__file__).parent.parent
MODULES = {"flower": ("examples/flower", "tip_digits.task"), "nvflare": ("examples/nvflare", "digits_net")}


@pytest.fixture(params=MODULES)
def module(request, monkeypatch):
    folder, name = MODULES[request.param]
    monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module(name)


@pytest.fixture
def cifar10(tmp_path) -> str:
    """A folder in the layout of ``uoft-cs/cifar10``: 600 images of one color each, red by number."""
    for part in range(2):
        rows = []
        for number in range(300 * part, 300 * (part + 1)):
            picture = io.BytesIO()
            Image.new("RGB", (32, 32), (number % 256, 0, 255)).save(picture, "png")
            rows.append({"img": {"bytes": picture.getvalue(), "path": None}, "label": number % 10})
        (tmp_path / "plain_text").mkdir(exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "plain_text" / f"train-0000{part}.parquet")
    return str(tmp_path)


def parts_of(module, data: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Public and test images and those of three clients."""
    if module.__name__ == "digits_net":
        return [module.public(data), module.test(data), *(module.private(data, client, 3) for client in range(3))]
    return [module.public(data), module.test_set(data), *(module.of_client(data, client, 3) for client in range(3))]


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_every_image_is_somewhere_once(module, data, request):
    folder = data if data == "digits" else request.getfixturevalue(data)
    parts = parts_of(module, folder)
    images, labels = (torch.cat(kind) for kind in zip(*parts, strict=True))
    assert images.shape == ((1797, 1, 8, 8) if data == "digits" else (600, 3, 32, 32))
    assert module.Net(channels=module.channels(folder))(images[:5]).shape == (5, 10)
    if data == "cifar10":
        own = images - images[:, 1:2]  # green is 0, whatever an example takes off
        red, blue = own[:, 0].flatten(1), own[:, 2].flatten(1)
        torch.testing.assert_close(blue, torch.ones_like(blue))
        numbers = sorted((red[:, 0] * 255).round().int().tolist())
        assert numbers == sorted(number % 256 for number in range(600))
        assert set(labels.tolist()) == set(range(10))


def test_a_folder_without_images(module, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected data to be 'digits' or a folder with train\*.parquet, got"):
        parts_of(module, str(tmp_path / "none"))
