"""The demo's page, demo.html: one file with all pictures in it, without scripts, legible on a phone."""

import base64
import io
from collections.abc import Iterator
from html import escape

import torch
from matplotlib.figure import Figure
from matplotlib.image import imsave

import tip_kernels as tip
from bench.privacy.study.metrics import SAFE
from examples.demo_pictures import exposure, kernel_figure
from examples.demo_results import Results, defense_of, guess_psnr, knows_best

MEANINGS = (
    (22.0, "The picture is there."),
    (18.0, "One knows what it shows."),
    (15.0, "Often still a shape that gives it away."),
    (SAFE, "Colors and blurs, but more than one could guess without the message."),
)
"""What docs/privacy.md says of such a PSNR and above, in dB."""
UNSEEN = "No more than one could guess without the message."
WHO = {
    "no defense": "The gradient is sent as it is.",
    "TIP, naive attacker": "Noise on the high frequencies; the attacker trusts every number that it sees.",
    "TIP, informed attacker": "The same message; this attacker leaves out the channels that TIP noises.",
    "TIP with floor, knowing photos": "Noise on every number; the attacker knows what photos look like, and the noise.",
}
KERNELS = {
    "TIP": "Inside the orange line the difference is white: the low frequencies are released exactly, and that is what "
    "an informed attacker reads.",
    "TIP with floor": "With a floor nothing is released exactly.",
}
STYLE = """
body { font: 17px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; color: #222; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; } .cards figure { flex: 1 1 8.5rem; max-width: 14rem; }
figure { margin: 0; } figcaption { font-size: 0.9rem; line-height: 1.35; }
img { width: 100%; height: auto; display: block; margin-bottom: 0.3rem; } img.pixels { image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; } td, th { padding: 0.3rem; border-bottom: 1px solid #ccc; }
td, th { text-align: right; } td:first-child, th:first-child { text-align: left; }
.conclusion { border-left: 4px solid #c44e00; padding-left: 1rem; font-weight: 600; }
small { color: #555; }
"""


def page(results: Results, settings: str, cutoff: float) -> str:
    """HTML in UTF-8.

    Args:
        results: of this run.
        settings: of the noise, in words.
        cutoff: of the high band in the pictures of kernels.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>What a gradient shows of a photo</title><style>{STYLE}</style></head><body>",
        *_attacks(results),
        *_audits(results),
        *_kernels(results, cutoff),
        *_training(results),
        f"<p><small>Measured in this run, with noise in every step: {escape(settings)}, in units of the clipping norm "
        f"(floor_std only where it says floor). Backend {escape(tip.available_backends()[0])}. One photo and one noise "
        "seed: docs/privacy.md has the study.</small></p></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _attacks(results: Results) -> Iterator[str]:
    yield "<h1>What a gradient shows of a photo</h1>"
    yield (
        "<p>In federated learning a photo stays on the phone that took it. What the phone sends is a gradient: how the "
        "model should change to learn the photo. Whoever sees that message can try to rebuild the photo from it. Here "
        "are one photo and what attackers rebuilt, without a defense and with TIP.</p>"
    )
    yield '<div class="cards">'
    yield _card(results.original, "The original", "It never leaves the client.")
    for name, one in results.rebuilt.items():
        figures = f"{one.psnr:.1f} dB, SSIM {one.ssim:.2f}. {meaning(one.psnr)}"
        yield _card(one.image, name, WHO[name], figures)
    yield "</div>"
    yield (
        "<p>PSNR, in dB, says how close a picture is to the original: higher leaks more, and "
        f"{SAFE:g} dB is about what the mean of many photos has, without any message. SSIM is 1 for the same picture "
        "and near 0 for an unlike one.</p>"
    )
    yield '<div class="conclusion">' + "".join(f"<p>{escape(line)}</p>" for line in results.conclusion) + "</div>"


def _audits(results: Results) -> Iterator[str]:
    yield "<h2>What any attacker could see</h2>"
    yield (
        "<p>Attacks that fail prove little. The audit asks what the message tells at all: its best guess, and where in "
        "the picture it leaks (bright is seen, black is hidden as without a message). The ceiling is the PSNR of the "
        "best estimate, on average over such photos; the guess is that estimate for this photo, which is worse for "
        "photos unlike those, so that an attacker who searches may come closer to this one. Both take the gradient to "
        "be linear in the photo.</p>"
    )
    for name in results.rebuilt:
        if not knows_best(name):
            continue
        found = results.audits[defense_of(name)]
        yield f'<h3>{escape(defense_of(name))}</h3><div class="cards">'
        guess = f"{guess_psnr(found, results.original):.1f} dB for this photo"
        yield _card(found.guess[0].float(), "Best guess", guess)
        yield _card(exposure(found), "Where it leaks", f"Ceiling {found.psnr.item():.1f} dB on average")
        yield "</div>"


def _kernels(results: Results, cutoff: float) -> Iterator[str]:
    yield "<h2>What the noise does to the message</h2>"
    yield (
        "<p>One small kernel of the gradient before and after, and the difference, which is the noise: above as the "
        "numbers that are sent, below by frequency, the mean of the kernel in the middle. Outside of the orange line "
        "are the high frequencies, where TIP puts its noise.</p>"
    )
    for name, kernel in results.kernels.items():
        about = f"One kernel of the gradient before and after, {name}"
        yield f"<h3>{escape(name)}</h3><figure>{_img(_drawn(kernel_figure(kernel, cutoff)), about)}"
        yield f"<figcaption>{escape(KERNELS[name])}</figcaption></figure>"


def _training(results: Results) -> Iterator[str]:
    yield "<h2>What it costs</h2>"
    yield "<p>The same kind of net, trained on handwritten digits with the defense in every step.</p>"
    yield "<table><tr><th>defense</th><th>accuracy</th><th>ms a step</th></tr>"
    for name, one in results.trained.items():
        yield f"<tr><td>{escape(name)}</td><td>{100 * one.accuracy:.1f} %</td><td>{one.step_ms:.2f}</td></tr>"
    yield "</table>"


def meaning(psnr: float) -> str:
    """In plain words."""
    return next((words for least, words in MEANINGS if psnr > least), UNSEEN)


def _card(image: torch.Tensor, title: str, *lines: str) -> str:
    text = "<br>".join([f"<b>{escape(title)}</b>", *map(escape, lines)])
    return f"<figure>{_img(_encoded(image), title, pixels=True)}<figcaption>{text}</figcaption></figure>"


def _img(png: bytes, about: str, pixels: bool = False) -> str:
    kind = ' class="pixels"' if pixels else ""
    return f'<img{kind} alt="{escape(about)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _encoded(image: torch.Tensor) -> bytes:
    """[3, height, width] in [0, 1] as PNG, pixel by pixel."""
    file = io.BytesIO()
    imsave(file, image.permute(1, 2, 0).clamp(0, 1).double().numpy(), format="png")
    return file.getvalue()


def _drawn(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200)
    return file.getvalue()
