"""Federated training: the images, their division, the round, what the defenses do to an update, and resuming."""

import io

import pytest
import torch
from torch import nn

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench import paths
from bench.privacy import __main__ as command
from bench.privacy import images, nets
from bench.privacy.client.grad_cam import channel_weights
from bench.privacy.federated import local, protect, rounds
from bench.privacy.federated.clients import divide
from bench.privacy.federated.settings import Settings
from bench.privacy.federated.state import assign, copied, state
from bench.privacy.images import Labeled

TINY = ["--model", "small", "--clients", "4", "--sampled", "2", "--images-per-client", "40", "--lr", "0.1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PRIVACY_RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "CHECKPOINTS", tmp_path / "checkpoints")
    return tmp_path


def federate(*arguments):
    command.main(["federate", *TINY, *arguments])


def random_data(count=12, size=8):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), generator=draw, dtype=torch.uint8)
    return Labeled(pixels, torch.arange(count) % 10)


# --- images


def test_parquet_files_are_read_as_they_were_written(tmp_path):
    data = random_data()
    for split, part in (("train", data[:8]), ("test", data[8:])):
        pictures = []
        for pixels in part.images:
            file = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
            pictures.append({"bytes": file.getvalue(), "path": None})
        (tmp_path / "plain_text").mkdir(exist_ok=True)
        table = pa.table({"img": pictures, "label": part.labels.tolist()})
        pq.write_table(table, tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet")
    train, test = images.load(tmp_path, torch.device("cpu"))
    assert torch.equal(torch.cat([train.images, test.images]), data.images)
    assert torch.equal(torch.cat([train.labels, test.labels]), data.labels)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected train\*.parquet below"):
        images.load(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_every_image_goes_to_one_client(partition):
    labels = torch.arange(1000) % 10
    parts = divide(labels, 20, partition, seed=0)
    assert len(parts) == 20
    assert torch.cat(parts).sort().values.tolist() == list(range(1000))
    largest_class = torch.tensor([float(labels[part].bincount().max()) / len(part) for part in parts if len(part)])
    # At random a client has about 5 of its 50 in each class; with Dirichlet(0.5) one class leads.
    assert (largest_class.median() > 0.25) == (partition == "dirichlet")


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_first_images_of_a_client_are_of_all_its_classes(partition):
    """They are what Grad-CAM and ``--images-per-client`` take: with classes in order the first half would lack some."""
    labels = torch.arange(10_000) % 10
    for part in divide(labels, 20, partition, seed=0):
        first = labels[part[: len(part) // 2]].bincount(minlength=10)
        rest = labels[part[len(part) // 2 :]].bincount(minlength=10)
        # Of n images of a class half are expected, with a spread below sqrt(n) / 2, so that the difference has one
        # below sqrt(n); five of those.
        assert ((first - rest).abs() <= 5 * (first + rest).sqrt() + 1).all()


def test_augmentation_moves_and_mirrors_whole_images():
    data = random_data(40)
    out = local.augmented(data.images, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(data.images, (4, 4, 4, 4))
    found = [
        (flip, top, left)
        for i in range(40)
        for flip in (False, True)
        for top in range(9)
        for left in range(9)
        if torch.equal(_cut(padded[i].flip(2) if flip else padded[i], top, left), out[i])
    ]
    assert len(found) == 40  # each image is one of the 162, and no other
    assert len({top for _, top, _ in found}) > 5
    assert 10 < sum(flip for flip, _, _ in found) < 30  # of 40 fair coins: 3 standard deviations


def _cut(image, top, left):
    return image[:, top : top + 8, left : left + 8]


# --- the net


def test_resnet18_is_the_usual_one():
    model = nets.resnet18(channels=3)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962  # ResNet-18 for CIFAR-10, as commonly counted
    weights = channel_weights(model.eval(), torch.rand(2, 3, 32, 32), torch.tensor([1, 2]))
    assert len(weights) == 8  # the last convolution of each block
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


# --- rounds


def test_a_round_is_the_weighted_mean_of_the_updates():
    """Two clients of 8 and 4 images, all sampled, against updates made one by one."""
    data = random_data()
    settings = Settings(model="small", clients=2, sampled=2, batch=4, lr=0.1)
    clients = [data[:8], data[8:]]
    model = rounds.build(settings, data)
    before = copied(state(model))
    want = copied(before)
    for i, share in ((0, 8 / 12), (1, 4 / 12)):
        assign(model, before)
        steps = local.train_locally(model, clients[i], rounds.generator(settings, 1, 1 + i), settings)
        assert steps == 2 * len(clients[i].labels) / 4
        for name, tensor in state(model).items():
            want[name] += share * (tensor - before[name])
    assign(model, before)
    rounds.play_round(model, clients, 1, protect.no_defense, settings)
    # The same float32 sum of three terms, in one of two orders.
    assert all((tensor - want[name]).abs().max() < 1e-6 for name, tensor in state(model).items())
    assert any((tensor != before[name]).any() for name, tensor in state(model).items())


def test_noise_is_the_authors_formula():
    settings = Settings()
    # 32 steps * 1e-3 * (5 / 32) * sqrt(2 ln(1.25e5)) / 5
    assert protect.noise(32, settings) == pytest.approx(32 * 1e-3 * 5 / 32 * 4.844805262605389 / 5, rel=1e-12)


def test_what_each_defense_changes():
    data = random_data()
    settings = Settings(ratio=0.3)
    model = rounds.build(settings, data)
    beta = 0.01
    for name, change in protect.DEFENSES.items():
        update = {key: torch.zeros_like(tensor) for key, tensor in state(model).items()}
        change(model, update, data, beta, 1, settings)
        changed = {key for key, tensor in update.items() if tensor.any()}
        kernels = {key for key, p in model.named_parameters() if p.dim() == 4}
        if name == "none":
            assert not changed
        elif name == "tip":
            assert changed == {key for key in kernels if update[key].shape[2] == 3}
            share = update["0.weight"].flatten(1).any(1).float().mean()
            assert share == 20 / 64  # ceil(0.3 * 64) channels
            # 8 of 9 coefficients of 20 channels of 3 kernels: 480 normals of std beta / 3, 5 standard errors
            assert update["0.weight"].norm() == pytest.approx(480**0.5 * beta / 3, rel=5 / (2 * 480) ** 0.5)
        elif name == "apg":
            assert changed == {f"{block}.conv2.weight" for block in range(3, 11)}
            # A channel's noise is its score by the highest: the largest is near beta, and none is above.
            loudest = torch.stack([update[key].flatten(1).std(1).max() for key in changed])
            assert (loudest < 1.3 * beta).all()
            assert (loudest > 0.7 * beta).all()
        else:
            assert changed == {key for key, _ in model.named_parameters()}
            flat = torch.cat([update[key].flatten() for key in changed])
            assert flat.std() == pytest.approx(beta, rel=5 / (2 * len(flat)) ** 0.5)


def test_a_resumed_run_is_the_uninterrupted_one(folder, capsys):
    federate("--rounds", "2", "--defenses", "tip,apg", "--name", "whole")
    federate("--rounds", "1", "--defenses", "tip,apg", "--name", "parts")
    page = folder / "page.md"
    page.write_text("before\n<!-- parts: begins -->\n<!-- parts: ends -->\n")
    federate("--rounds", "2", "--defenses", "tip,apg", "--name", "parts", "--resume", "--page", str(page))
    results = folder / "results"
    whole, parts = ((results / f"{name}.csv").read_text() for name in ("whole", "parts"))
    first, *rows = parts.splitlines()
    assert rows == whole.splitlines()[1:]
    assert first == (
        "# python -m bench.privacy federate --rounds 2 --defenses tip,apg --name parts "
        "--model small --clients 4 --sampled 2 --images-per-client 40 --lr 0.1"
    )
    assert (results / "parts.png").stat().st_size > 0
    models = [torch.load(folder / "checkpoints" / f"{name}-tip.pt")["model"] for name in ("whole", "parts")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    assert "| tip | 2 |" in capsys.readouterr().out
    assert "| tip | 2 |" in page.read_text()


def test_a_checkpoint_of_other_settings_is_refused(folder):
    federate("--rounds", "1", "--defenses", "none")
    with pytest.raises(ValueError, match="of these settings, got others: run without --resume"):
        federate("--rounds", "2", "--defenses", "none", "--resume", "--ratio", "0.5")


def test_unknown_defenses_are_refused(folder):
    with pytest.raises(SystemExit, match="expected --defenses from none, tip, apg, dp, got foo"):
        federate("--defenses", "none,foo")


def test_it_learns(folder):
    many = ["--clients", "20", "--sampled", "5", "--images-per-client", "0"]
    federate("--rounds", "4", "--defenses", "none", "--partition", "dirichlet", *many)
    last = (folder / "results" / "federated-digits-small-dirichlet.csv").read_text().splitlines()[-1]
    assert float(last.split(",")[-1]) > 30  # a guess has 10
