"""``python -m tip_kernels audit``: what it prints and draws, and that it refuses what a user cannot have meant."""

import json
import pathlib
import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

from PIL import Image

from tip_kernels import TIP, Spectrum
from tip_kernels.__main__ import main
from tip_kernels._commands import audit_picture
from tip_kernels.audit import ImagePrior, audit

pytestmark = pytest.mark.usefixtures("one_thread", "seeded", "working_folder")

NETS = """
import torch
from torch import nn

model = nn.Conv2d(3, 2, 3)
number = 3


def small(channels=3):
    print("made by the factory")
    return nn.Sequential(nn.Conv2d(channels, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))


def still():
    return small().eval()


def partly_still():
    net = nn.Sequential(*small(), nn.Dropout(0.5))
    net[-1].eval()
    return net


def gray():
    return small(1)


def no_head():
    return nn.Conv2d(3, 2, 3)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 3))


def norms():
    return nn.Sequential(nn.Conv2d(3, 2, 6), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def wide(width):
    return nn.Conv2d(3, width, 3)


def broken():
    raise KeyError("a line\\nand another")


def halted():
    raise SystemExit(3)


class Leaves(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, images):
        raise SystemExit(0)


def leaves(*_arguments):
    if _arguments:
        raise SystemExit(0)
    return Leaves()


def text():
    return "no model"


def squares(outputs, labels):
    return (outputs ** 2).sum()


def apart(outputs, labels):
    return outputs
"""


@pytest.fixture
def working_folder(tmp_path, monkeypatch) -> pathlib.Path:
    """The current folder, with a module of nets, images of three classes, and public ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("nets", "needy", "wrong"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "needy.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    for number, name in enumerate(("ant", "bee", "cat")):
        write(tmp_path / "photos" / name / "a.png", seed=number)
        write(tmp_path / "photos" / name / "b.png", seed=10 + number)
    for number in range(12):
        write(tmp_path / "public" / f"{number}.png", seed=100 + number)
    yield tmp_path
    for name in ("nets", "needy", "wrong"):
        sys.modules.pop(name, None)


def pixels(seed: int, size=(6, 6), channels: int = 3) -> torch.Tensor:
    """Uint8 [height, width, channels]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*size, channels), generator=generator, dtype=torch.uint8)


def write(path: pathlib.Path, seed: int = 0, mode: str = "RGB", size=(6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    Image.fromarray(pixels(seed, size, channels).squeeze(-1).numpy(), mode).save(path)


ARGUMENTS = "--ratio 0.5 --std 0.2 --floor 0.1 --max-grad-norm 1"


def run(capsys, text: str, model: str = "nets:small", images: str = "photos") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of an audit with more options."""
    code = main(["audit", "--model", model, "--images", images, *ARGUMENTS.split(), *text.split()])
    return code, *capsys.readouterr()


def refusal(capsys, text: str, **options) -> str:
    """The one line by which it is refused, with nothing on stdout and no picture."""
    code, out, err = run(capsys, text, **options)
    assert code == 2
    line = err.removeprefix("made by the factory\n")
    assert (out.removeprefix("made by the factory\n"), line.count("\n")) == ("", 1)
    assert line.startswith("error: ")
    assert not pathlib.Path("audit.png").exists()
    return line


def found_in(capsys, text: str, **options) -> dict:
    code, out, _ = run(capsys, f"--json {text}", **options)
    assert code == 0
    return json.loads(out)


def test_json_has_what_the_library_finds(capsys, working_folder):
    found = found_in(capsys, "--prior public --cutoff 0.75 --keep 0.5")
    assert pathlib.Path("audit.png").read_bytes()[:4] == b"\x89PNG"

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    of_seeds = lambda seeds: torch.stack([pixels(seed).permute(2, 0, 1).float() / 255 for seed in seeds])  # noqa: E731
    images, labels = of_seeds([0, 10, 1, 11, 2, 12]), torch.tensor([0, 0, 1, 1, 2, 2])
    defense = TIP(model, ratio=0.5, std=0.2, floor_std=0.1, max_grad_norm=1.0, cutoff=0.75, keep=0.5)
    prior = ImagePrior.fit(of_seeds([100, 101, *range(102, 112)]))
    expected = audit(model, nn.functional.cross_entropy, images, labels, defense, prior=prior)

    assert [image["path"] for image in found["images"]] == [
        f"{name}/{n}.png" for name in ("ant", "bee", "cat") for n in "ab"
    ]
    assert [image["label"] for image in found["images"]] == labels.tolist()
    assert [image["psnr"] for image in found["images"]] == pytest.approx(expected.psnr.tolist(), abs=1e-3)
    assert [image["psnr_error"] for image in found["images"]] == [0] * 6
    assert found["prior_psnr"] == pytest.approx(expected.prior_psnr, abs=1e-6)
    assert (found["method"], found["exact_std"], found["notes"], found["picture"]) == ("exact", 0, [], "audit.png")
    assert [row["parameter"] for row in found["leak"]] == [row.parameter for row in expected.leak]
    assert [row["reveals"] for row in found["leak"]] == pytest.approx([row.reveals for row in expected.leak], rel=1e-3)
    assert [row["leak"] for row in found["leak"]] == pytest.approx([row.leak for row in expected.leak], rel=1e-3)
    assert found["settings"] == {
        "ratio": 0.5, "cutoff": 0.75, "keep": 0.5, "std": 0.2, "floor": 0.1, "max_grad_norm": 1.0,
        "clip_by": "norm", "spectrum": None, "per_message": 1, "lr": None, "steps": 1, "seed": 0,
    }  # fmt: skip


def test_updates_after_steps_of_sgd(capsys):
    asked = "--per-message 2 --count 2 --no-picture --lr 0.5 --steps 3"
    found = found_in(capsys, asked)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    images = torch.stack([pixels(seed).permute(2, 0, 1).float() / 255 for seed in (0, 11)])
    defense = TIP(model, ratio=0.5, std=0.2, floor_std=0.1, max_grad_norm=1.0)
    options = {"per_message": 2, "lr": 0.5, "steps": 3}
    expected = audit(model, nn.functional.cross_entropy, images, torch.tensor([0, 1]), defense, **options)
    assert [image["psnr"] for image in found["images"]] == pytest.approx(expected.psnr.tolist(), abs=1e-3)
    assert found["facts"]["message"] == "the update after 3 steps of SGD at 0.5 on 2 images"
    assert (found["settings"]["lr"], found["settings"]["steps"], found["notes"]) == (0.5, 3, [])
    of_norms = found_in(capsys, asked, model="nets:norms")
    assert "running statistics, which tell of the images and are not counted here" in of_norms["notes"][0]
    assert "running" not in "".join(found_in(capsys, "--per-message 2 --no-picture", model="nets:norms")["notes"])


def test_a_spectrum_from_its_file(capsys):
    made = Spectrum(
        {"0.weight": 0.1 + torch.rand(2, 3, 2)[:, [0, 1, 1]], "0.bias": 0.2, "3.weight": 0.3, "3.bias": 0.4}
    )
    made.save("spectrum.json")
    line = "--count 2 --no-picture --json --model nets:small --images photos --ratio 0.5 --max-grad-norm 1"
    found = {}
    for how in ("norm", "noise"):
        assert main(["audit", *line.split(), "--spectrum", "spectrum.json", "--clip-by", how]) == 0
        found[how] = json.loads(capsys.readouterr().out)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
        defense = TIP(model, ratio=0.5, spectrum=made, max_grad_norm=1.0, clip_by=how)
        images = torch.stack([pixels(seed).permute(2, 0, 1).float() / 255 for seed in (0, 11)])
        expected = audit(model, nn.functional.cross_entropy, images, torch.tensor([0, 1]), defense)
        assert [image["psnr"] for image in found[how]["images"]] == pytest.approx(expected.psnr.tolist(), abs=1e-3)
        assert (found[how]["settings"]["spectrum"], found[how]["settings"]["clip_by"]) == ("spectrum.json", how)
    assert made.fingerprint() in found["noise"]["facts"]["defense"]
    assert "clipped to 1 by the noise" in found["noise"]["facts"]["defense"]


def test_text_says_what_was_assumed(capsys):
    code, out, err = run(capsys, "--count 2 --no-picture")
    assert (code, err) == (0, "")
    assert not pathlib.Path("audit.png").exists()
    for said in (
        "nets:small, Sequential in training mode, 155 trained parameters",
        "2 of 6 images, evenly over the sorted ones, in photos, 3x6x6; they reach the model in [0, 1]",
        "order of the 3 sub-folders: ant 0, bee 1, cat 2",
        "TIP with ratio 0.5, cutoff 0.5, keep 1, std 0.2, floor 0.1, clipped to 1; channels by the scores of each",
        "the gradient of 1 image\n",
        "natural images in general, Gaussian (--prior fits one to public images); 12.0 dB without a message",
        "exact, by matrices",
        "linear around each image",
        "parameter  channels  frequency",
    ):
        assert said in out
    assert [line.split()[:2] for line in out.splitlines() if line.endswith(" dB")] == [
        ["ant/a.png", "0"],
        ["bee/b.png", "1"],
    ]
    assert "note" not in out


def test_iterative_audit_says_its_error(capsys):
    code, out, _ = run(capsys, "--method iterative --probes 4 --no-picture --count 3 --per-message 3")
    assert code == 0
    assert "iterative, 4 probes; +- one standard error" in out
    assert "the gradient of 3 images" in out
    assert sum(" +- " in line and line.endswith(" dB") for line in out.splitlines()) == 3


def test_infinite_noise_is_null_in_json(capsys):
    rows = found_in(capsys, "--no-picture --count 1 --keep 0")["leak"]
    assert any(row["std"] is None and row["leak"] == 0 for row in rows)


def test_notes_on_what_might_not_be_meant(capsys, working_folder):
    (working_folder / "photos" / "ant" / "c.webp").touch()
    (working_folder / "photos" / ".hidden").touch()
    line = "--count 1 --no-picture --json --model nets:partly_still --images photos --ratio 1 --std 0.2 --floor 0"
    assert main(["audit", *line.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    notes = iter(found["notes"])
    assert "1 files in photos are neither PNG nor JPEG" in next(notes)
    assert "1 of the model's modules are in evaluation mode" in next(notes)
    assert "not clipped" in next(notes)
    assert "without a floor" in next(notes)
    assert found["exact_std"] > 0
    assert "scores" not in found["facts"]["defense"]  # where all channels are selected they do not matter


@pytest.mark.parametrize("how", ["folders", "numbers", "one", "file"])
def test_labels(capsys, working_folder, how):
    """Of the image that folders sort last."""
    pathlib.Path("labels.csv").write_text("b/y.png,2\na/x.png, 1\nnot/there.png,7\n")
    names = ("0", "2") if how == "numbers" else ("a", "b")
    for name, file in zip(names, "xy", strict=True):
        write(working_folder / "few" / name / f"{file}.png")
    option, expected = {
        "folders": ("sorted", 1),
        "numbers": ("numbers", 2),
        "one": ("2", 2),
        "file": ("labels.csv", 2),
    }[how]
    found = found_in(capsys, f"--no-picture --labels {option}", images="few")
    assert found["images"][-1]["label"] == expected


def test_labels_that_cannot_be_meant_are_refused(capsys, working_folder):
    write(working_folder / "few" / "ant" / "x.png")
    assert "as many sub-folders as the model has outputs, 3, got 1" in refusal(capsys, "", images="few")
    assert "below the number of the model's outputs, 3, got 3 (ant/a.png)" in refusal(capsys, "--labels 3")
    assert "sub-folders with labels for names (--labels numbers), got ant" in refusal(capsys, "--labels numbers")
    assert "a label or a CSV file, got 'none.csv'" in refusal(capsys, "--labels none.csv")
    assert "in sub-folders, one for each class, got 0.png beside" in refusal(capsys, "", images="public")
    for number in (0, 2, 10):
        write(working_folder / "digits" / str(number) / "x.png")
    assert "numbers for names that are not their order (10 would be 1)" in refusal(capsys, "", images="digits")
    (working_folder / "photos" / "dog").mkdir()
    assert "every sub-folder of photos, got none in dog" in refusal(capsys, "")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("ant/a.png,1\n", "a label for every image in labels.csv, got none for ant/b.png"),
        ("ant/a.png,one\n", """expected lines "path,label" in labels.csv, got 'ant/a.png,one' in line 1"""),
        ("ant/a.png,1\nant/a.png,2\n", "one label for each image in labels.csv, got another for ant/a.png"),
        ("\x00\udcff", "expected a CSV file, got labels.csv"),
    ],
)
def test_a_file_of_labels_that_is_not_one(capsys, lines, said):
    pathlib.Path("labels.csv").write_text(lines, encoding="utf-8", errors="surrogateescape")
    assert said in refusal(capsys, "--labels labels.csv")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nets.py", "expected --model as module:name, like nets:small for small in nets.py, got 'nets.py'"),
        ("nowhere:f", "expected --model to name a module of the current folder or an installed one, got 'nowhere'"),
        ("nets.small:f", "a module of the current folder or an installed one, got 'nets.small'"),
        ("needy:f", "raised ModuleNotFoundError: No module named 'nothing_of_that_name' (needy.py, line 1)"),
        ("wrong:f", "import of wrong has raised SyntaxError"),
        ("nets:nothing", "expected --model to name something in nets, which has no 'nothing'"),
        ("nets:number", "expected --model to name a function, got int"),
        ("nets:model", "expected --model to name a function that returns a model, got a model itself"),
        ("nets:wide", "a function without arguments, got nets:wide: missing a required argument: 'width'"),
        ("nets:broken", "nets:broken has raised KeyError: 'a line\\nand another' (nets.py, line"),
        ("nets:halted", "nets:halted has raised SystemExit: 3"),
        ("nets:leaves", "(--size and --channels turn them into others), but it has raised SystemExit: 0"),
        ("nets:text", "expected nets:text to return a torch.nn.Module, got str"),
        ("nets:still", "in training mode, in which clients compute gradients, got one in evaluation mode: --eval"),
        ("nets:gray", "a model for images of 3x6x6 (--size and --channels turn them into others), but it has raised"),
        ("nets:no_head", "expected outputs [N, classes] of the model for cross_entropy, got 1x2x4x4: see --loss"),
        ("nets:linear", "expected a model with conv layers, got Sequential without"),
        ("nets:norms", "has raised ValueError: Expected more than 1 value per channel when training"),
    ],
)  # fmt: skip
def test_models_that_are_refused(capsys, model, said):
    assert said in refusal(capsys, "", model=model)


def test_evaluation_mode_is_asked_for(capsys):
    assert (
        "in evaluation mode" in found_in(capsys, "--eval --count 1 --no-picture", model="nets:still")["facts"]["model"]
    )
    assert (
        "in evaluation mode" in found_in(capsys, "--eval --count 1 --no-picture", model="nets:norms")["facts"]["model"]
    )


def test_a_loss_of_ones_own(capsys):
    found = found_in(capsys, "--loss nets:squares --count 1 --no-picture --labels 99", model="nets:no_head")
    assert (found["facts"]["loss"], found["images"][0]["label"]) == ("nets:squares", 99)
    assert "expected nets:apart to return one number as a tensor, got shape (1, 3)" in refusal(
        capsys, "--loss nets:apart"
    )
    assert "nets:small has raised TypeError" in refusal(capsys, "--loss nets:small")
    assert "expected --loss to name something in nets, which has no 'none'" in refusal(capsys, "--loss nets:none")


def test_images_are_turned_into_what_is_asked_for(capsys, working_folder):
    write(working_folder / "mixed" / "a.png", size=(6, 6))
    write(working_folder / "mixed" / "deeper" / "b.JPG", mode="L", size=(12, 18))
    said = refusal(capsys, "--labels 0", images="mixed")
    assert "expected images alike, got 3x6x6 (a.png) and 1x12x18 (deeper/b.JPG): --size and --channels" in said
    facts = found_in(capsys, "--labels 0 --size 6 --channels 3 --no-picture", images="mixed")["facts"]
    assert "2 images in mixed, 3x6x6, scaled to cover 6x6 and cropped, turned into colors" in facts["images"]
    facts = found_in(capsys, "--labels 0 --size 6x6 --channels 1 --no-picture", images="mixed", model="nets:gray")[
        "facts"
    ]
    assert "1x6x6, scaled to cover 6x6 and cropped, turned into gray" in facts["images"]


def test_scaled_and_cropped_around_the_center(working_folder):
    from tip_kernels._commands import folders

    wide = torch.zeros(4, 12, 3, dtype=torch.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide.numpy()).save("wide.png")
    images = folders.read(working_folder, [pathlib.Path("wide.png")], folders.Form((4, 4), None))
    torch.testing.assert_close(images, torch.full((1, 3, 4, 4), 200 / 255))
    halved = folders.read(working_folder, [pathlib.Path("wide.png")], folders.Form((2, 6), None))
    assert halved.shape == (1, 3, 2, 6)
    assert halved[0, 0, 0, 0] < 0.1 < halved[0, 0, 0, 2] == halved[0, 0, 0, 3]


def test_images_that_are_refused(capsys, working_folder):
    assert "expected --images to be a folder, got nowhere" in refusal(capsys, "", images="nowhere")
    (working_folder / "empty").mkdir()
    assert "expected PNG or JPEG files in empty (--images), got none" in refusal(capsys, "", images="empty")
    one = working_folder / "one" / "x.png"
    write(one, mode="RGBA")
    assert "without transparency, got one/x.png" in refusal(capsys, "--labels 0", images="one")
    Image.fromarray(torch.zeros(6, 6, dtype=torch.uint16).numpy()).save(one)
    assert "8 bits a channel, got one/x.png of Pillow's mode I;16" in refusal(capsys, "--labels 0", images="one")
    one.write_bytes(b"no image")
    assert "expected an image, got one/x.png: cannot identify" in refusal(capsys, "--labels 0", images="one")
    assert "expected 7 images in photos (--count, --per-message), got 6" in refusal(capsys, "--count 7")
    assert "expected 7 images in photos (--count, --per-message), got 6" in refusal(capsys, "--per-message 7")
    assert "a multiple of --per-message, 2, got 3" in refusal(capsys, "--count 3 --per-message 2")


def test_links_in_a_circle_are_refused(capsys, working_folder):
    """Their images would be counted again and again, or forever."""
    (working_folder / "photos" / "ant" / "again").symlink_to("..")
    assert "every folder below photos once (--images), got photos/ant/again again, by" in refusal(capsys, "--labels 0")
    (working_folder / "public" / "further").symlink_to(working_folder / "photos" / "bee")
    assert "expected every folder below" not in run(capsys, "--no-picture --count 1 --labels 0", images="public")[2]


def test_names_that_are_no_text_are_shown(capfd, working_folder):
    """Linux takes any bytes for a name; a stdout of UTF-8, or a figure, does not."""
    odd = working_folder / "odd" / b"\xff.png".decode("utf-8", "surrogateescape")
    write(odd)
    code, out, _ = run(capfd, "--labels 0 --out odd.png", images="odd")
    assert code == 0
    assert "\\udcff.png" in out
    assert (working_folder / "odd.png").is_file()


def test_opaque_and_indexed_images_are_read(working_folder):
    from tip_kernels._commands import folders

    opaque = pixels(1, channels=4)
    opaque[..., 3] = 255
    Image.fromarray(opaque.numpy()).save("opaque.png")
    Image.fromarray(pixels(2, channels=1).squeeze(-1).numpy()).convert("LA").save("gray.png")
    Image.fromarray(opaque.numpy()).convert("RGB").quantize(200).save("indexed.png")
    read = lambda name: folders.read(working_folder, [pathlib.Path(name)], folders.Form(None, None))[0]  # noqa: E731
    torch.testing.assert_close(read("opaque.png"), opaque[..., :3].permute(2, 0, 1) / 255)
    torch.testing.assert_close(read("gray.png"), pixels(2, channels=1).permute(2, 0, 1) / 255)
    torch.testing.assert_close(read("indexed.png"), opaque[..., :3].permute(2, 0, 1) / 255)


def test_priors_that_are_refused(capsys, working_folder):
    assert "public images that are not audited (--prior), got ant/a.png among them" in refusal(capsys, "--prior photos")
    assert "expected --prior to be a folder, got nowhere" in refusal(capsys, "--prior nowhere")
    write(working_folder / "gray" / "x.png", mode="L")
    assert "expected public images of 3x6x6 like those that are audited, got 1x6x6" in refusal(capsys, "--prior gray")
    write(working_folder / "single" / "x.png", seed=99)
    assert "--prior: expected at least two images" in refusal(capsys, "--prior single")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--st 1", "unrecognized arguments: --st 1; --help tells more"),
        (
            "--spectrum spectrum.json",
            "expected --std and --floor to be left out beside --spectrum, which has all noise",
        ),
        ("--std many", "argument --std: invalid float value: 'many'"),
        ("--std -1", "expected std to be"),
        ("--floor nan", "expected floor_std to be"),
        ("--ratio 2", "expected ratio"),
        ("--max-grad-norm 0", "expected max_grad_norm"),
        ("--probes 1 --method iterative", "expected probes to be an integer of at least 2, got 1"),
        ("--loss nets:leaves", "nets:leaves has raised SystemExit: 0"),
        (
            "--labels 9223372036854775808",
            "expected labels of at most 9223372036854775807 (--labels), got 92233720368547",
        ),
        ("--seed 18446744073709551616", "argument --seed: expected an integer in [-2**63, 2**64), got 184467440737"),
        ("--lr 0", "expected lr to be above 0, got 0: nothing would be sent"),
        ("--steps 2", "expected lr beside steps, for the update after 2 steps of SGD, got None"),
        ("--steps 0", "argument --steps: expected a positive integer, got 0"),
        ("--per-message 0", "argument --per-message: expected a positive integer, got 0"),
        ("--size 6x", "argument --size: expected a size like 32 or 32x48, got 6x"),
        ("--size x6", "argument --size: expected a size like 32 or 32x48, got x6"),
        ("--size 0", "argument --size: expected a size like 32 or 32x48, got 0"),
        ("--steps 1.5", "argument --steps: expected a positive integer, got 1.5"),
        ("--seed one", "argument --seed: expected an integer in [-2**63, 2**64), got one"),
        ("--channels 2", "argument --channels: invalid choice"),
        ("--out audit.jpg", "expected --out to be a file that ends in .png, got audit.jpg"),
        ("--out nowhere/audit.png", "expected --out in a folder that can be written, got nowhere/audit.png"),
    ],
)
def test_options_that_are_refused(capsys, options, said):
    assert said in refusal(capsys, options)


def test_help_has_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--max-grad-norm" in text
    assert "ImageFolder" in text


def test_what_has_no_default(capsys):
    given = ["audit", "--model", "nets:small", "--images", "photos"]
    assert main(given) == 2
    assert "the following arguments are required: --ratio" in capsys.readouterr().err
    for noise in ([], ["--std", "0.1"], ["--floor", "0.1"]):
        assert main([*given, "--ratio", "0.5", *noise]) == 2
        assert "expected --std and --floor, or --spectrum, got no noise for everything" in capsys.readouterr().err
    assert main(["adit"]) == 2
    assert "invalid choice: 'adit'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["PIL", "matplotlib", "tqdm"])
def test_without_a_package(capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "PIL":
        assert "reading images needs pillow, which is not installed: pip install pillow" in refusal(capsys, "")
    if module == "matplotlib":
        said = refusal(capsys, "")
        assert "the picture (--no-picture draws none) needs matplotlib, which is not installed" in said
    if module != "PIL":
        assert found_in(capsys, "--count 1 --no-picture")["picture"] is None


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_picture_has_its_panels(method):
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(12)), nn.Flatten(), nn.Linear(36, 3))
    images, labels = torch.rand(6, 1, 6, 6), torch.arange(6) % 3
    found = audit(
        model, nn.functional.cross_entropy, images, labels, TIP(model, ratio=1.0, std=0.2, floor_std=0.1), method=method
    )
    names = ["a" * 40 + "$x$ $" for _ in images]
    figure = audit_picture.drawn(found, images, names, probes=8)
    figure.canvas.draw()
    left, right = figure.subfigs
    panels, bar = left.axes[:-1], left.axes[-1]
    assert len(panels) == 3 * audit_picture.MOST_IMAGES
    assert "bright is exposed" in bar.get_xlabel()
    about = ", +- 25 %" if method == "iterative" else ""
    for number in range(audit_picture.MOST_IMAGES):
        original, guess, exposure = panels[3 * number : 3 * number + 3]
        shown = [panel.images[0].get_array() for panel in (original, guess, exposure)]
        torch.testing.assert_close(torch.tensor(shown[0]), images[number, 0])
        torch.testing.assert_close(torch.tensor(shown[1]), found.guess[number, 0].clamp(0, 1).float())
        torch.testing.assert_close(torch.tensor(shown[2]), found.uncertainty[number, 0])
        assert original.get_title() == "..." + names[0][-25:]
        assert guess.get_title().startswith(f"best guess, ceiling {found.psnr[number].item():.1f}")
        assert exposure.get_title() == f"exposure map{about}"
    for axis in right.axes:
        assert sum(piece.get_width() for piece in axis.patches) == pytest.approx(100)
    reveals = right.axes[0]
    ticks = [label.get_text() for label in reveals.get_yticklabels()]
    assert len(ticks) == audit_picture.MOST_PARAMETERS + 1
    assert ticks[-1] == "6 others"
    (legend,) = right.legends
    assert {text.get_text() for text in legend.get_texts()} >= {"no frequency", "1.00, selected"}
    first = sum(row.reveals for row in found.leak if row.parameter == ticks[0]) / sum(row.reveals for row in found.leak)
    assert sum(piece.get_width() for piece in reveals.patches if piece.get_y() < 0) == pytest.approx(100 * first)


def test_commands_in_a_process_of_their_own(working_folder):
    root = pathlib.Path(__file__).parent.parent
    line = f"{ARGUMENTS} --model nets:small --images photos --count 1 --no-picture --json"
    program = [sys.executable, "-m", "tip_kernels"]
    environment = {"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*program, "audit", *line.split()], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "made by the factory\n")
    assert json.loads(done.stdout)["images"][0]["path"] == "ant/a.png"


def test_the_table_of_backends_is_the_command_without_a_name(capsys):
    assert main([]) == 0
    table = capsys.readouterr().out
    assert main(["backends"]) == 0
    assert capsys.readouterr().out == table
    assert "reference" in table
