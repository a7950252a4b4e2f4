"""The study's bookkeeping: nothing is run twice, and the strongest attacker is the one that is shown."""

import argparse
import dataclasses
import pathlib

import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import torch

from bench import pages, paths
from bench.privacy import __main__ as entry
from bench.privacy import figures, images, nets
from bench.privacy.attacker import knowledge, posterior
from bench.privacy.attacker.climbing import ADAM
from bench.privacy.attacker.gauss_newton import GAUSS_NEWTON
from bench.privacy.attacker.inversion import Reconstruction, Search
from bench.privacy.attacker.sampling import HAMILTONIAN
from bench.privacy.client import defenses
from bench.privacy.commands import compare, pictures, study
from bench.privacy.images import Labeled
from bench.privacy.study import (
    attacks,
    ceiling,
    evaluate,
    gaps,
    jobs,
    ledger,
    metrics,
    report,
    scenes,
    strongest,
    with_priors,
)
from bench.privacy.study.attacks import Attack
from bench.privacy.study.cases import BY_LBFGS, EQUAL, PUBLISHED, STATISTICS_SENT, WORLDS, cases
from bench.privacy.study.ceiling import Limits
from bench.privacy.study.jobs import CEILING, Ceilings, Cost, Effort, Job, Place, Row
from bench.privacy.study.ledger import Figures
from bench.privacy.study.report import Study
from bench.privacy.study.scenes import Batch, Scene

EFFORT = Effort("photos", iterations=200, restarts=1, seeds=1)


def row(table: str, defense: str, attacker: str, tuned: float, *psnr: float) -> Row:
    """With as many batches of one image."""
    return Row(table, defense, attacker, *EFFORT, "0.01", tuned, len(psnr), Figures(psnr), Figures([0.8]), 20.0)


ROWS = [
    row(EQUAL, "none", "naive", 31.0, 31.5, 32.5, 34.0),
    row(EQUAL, "TIP 0.3", "naive", 14.0, 15.0, 15.0, 15.0),
    row(EQUAL, "TIP 0.3", "spectral", 26.0, 24.0, 25.0, 29.0),
    row(EQUAL, "TIP 0.3", "MAP, Gaussian", 25.0, 27.0, 28.0, 30.0),
    row(PUBLISHED, "TIP 0.3", "naive", 30.0, 30.0, 30.0, 30.5),
]
COSTS = [Cost(EQUAL, "none", 97.5, 3.0), Cost(EQUAL, "TIP 0.3", 97.0, 3.0)]
CEILINGS = [
    Ceilings(EQUAL, "none", "photos", Figures([32.0, 34.5]), Figures([31.0, 30.0]), 4.0),
    Ceilings(EQUAL, "TIP 0.3", "photos", Figures([26.0, 27.0]), Figures([25.5, 26.5]), 4.0),
]


def test_lines_survive_a_restart(tmp_path):
    for kind, lines in ((Row, ROWS), (Cost, COSTS), (Ceilings, CEILINGS)):
        path = tmp_path / f"{kind.__name__}.csv"
        assert ledger.load(kind, path) == []
        jobs.save(lines[::-1], path)
        assert ledger.load(kind, path) == lines  # in the order of the tables
    with pytest.raises(ValueError, match=r"Row.csv to have the columns table,defense,accuracy,seconds, got table,"):
        ledger.load(Cost, tmp_path / "Row.csv")


def test_strongest_attacker_is_chosen_on_other_images_than_those_shown():
    assert list(strongest.strongest(ROWS).values()) == [ROWS[0], ROWS[2], ROWS[4]]
    line = report.markdown(EQUAL, ROWS, COSTS).splitlines()[-1]
    assert line == "| TIP 0.3 | 15.0 dB | 25.0 dB (24.0, 29.0) | spectral | 29.0 dB | 0.80 | 97.0 % |"
    assert report.markdown(PUBLISHED, ROWS, COSTS).splitlines()[-1].endswith("| 0.80 |")


def test_attackers_by_matching_have_one_line_together():
    lines = [line.split(" | ") for line in report.by_attacker(ROWS).splitlines()]
    column = lines[0].index("TIP 0.3")
    found = {line[0].strip("| "): line[column] for line in lines[2:]}
    assert found == {"cosine + TV": "25.0", "MAP, Gaussian": "28.0"}


def test_interval_keeps_what_belongs_to_a_batch_together():
    """Were images drawn one by one, medians between the two batches would be common and the interval narrow."""
    images = row(EQUAL, "none", "naive", 0.0, *[10.0] * 50, *[30.0] * 50)
    by_batch = strongest.median(images._replace(batches=2))
    assert (by_batch.low, by_batch.high) == (10.0, 30.0)
    median = strongest.median(row(EQUAL, "none", "naive", 0.0, *range(101)))
    assert median.value == 50.0
    # The order statistics of a binomial: 50 +- 1.645 * sqrt(101) / 2.
    assert 39 <= median.low <= 44
    assert 56 <= median.high <= 61
    assert str(strongest.median(row(EQUAL, "none", "naive", 0.0, 20.0))) == "20.0 dB"  # one batch leaves all open


def test_only_the_table_of_the_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    marks = f"<!-- {EQUAL}: begins -->\n{{}}<!-- {EQUAL}: ends -->\n"
    page.write_text(f"before\n{marks.format('old')}after\n")
    pages.publish(page, EQUAL, "new")
    assert page.read_text() == f"before\n{marks.format('new' + chr(10))}after\n"
    with pytest.raises(ValueError, match="expected <!-- other worlds: begins -->"):
        pages.publish(page, WORLDS, "new")


def test_marks_of_the_tables_are_there():
    for page, tables in (
        (paths.PRIVACY_PAGE, report.tables(Study(ROWS, COSTS, CEILINGS))),
        (paths.README, (report.THREATS,)),
    ):
        for table in tables:
            assert page.read_text().count(f"<!-- {table}: ") == 2
    assert set(report.SHOWN) <= set(cases()[EQUAL])
    assert all(defense in cases()[table] for table, defense in report.MET)


def tiny_scene(**changes) -> Scene:
    """Images of 12 pixels, the least that SSIM takes, and a small net."""
    torch.manual_seed(0)
    batches = [Batch(image, torch.tensor([3])) for image in torch.rand(3, 1, 1, 12, 12)]
    scene = Scene(nets.small_conv_net(channels=1, size=12, width=4), batches[:1], batches[1:])
    return scene._replace(**changes)


def test_settings_are_tuned_on_images_that_are_not_scored(monkeypatch):
    asked = []

    def score(scene, defense, attack, batches, seeds, settings, search):
        asked.append((batches, list(seeds)))
        return [
            [metrics.Score(20.0 - abs(setting[0] - 0.1), 0.5)] for _ in batches for _ in seeds for setting in settings
        ]

    monkeypatch.setattr(evaluate, "score", score)
    scene = tiny_scene()
    outcome = evaluate.outcome(scene, defenses.none, attacks.by_cosine(knowledge.naive), Search(), seeds=range(1, 3))
    assert outcome == ((0.1,), 20.0, [20.0] * 4, [0.5] * 4)
    assert asked == [(scene.tuning, [0]), (scene.scored, [1, 2])]


def test_every_setting_is_judged_by_its_own_tries(monkeypatch):
    """Of two settings on three images, in the order in which they are attacked."""
    psnr = iter([10.0, 30.0, 11.0, 31.0, 12.0, 29.0])
    monkeypatch.setattr(evaluate, "score", lambda *_: [[metrics.Score(next(psnr), 0.5)] for _ in range(6)])
    attack = attacks.by_cosine(knowledge.naive)._replace(settings=[(0.1,), (1.0,)])
    assert evaluate.best_setting(tiny_scene(), defenses.none, attack, Search()) == ((1.0,), 30.0)


def test_informed_attacker_is_stronger_on_a_tiny_model():
    scene, search = tiny_scene(), Search(iterations=60)
    naive, informed = (
        evaluate.outcome(scene, defenses.targeted(1.0, 0.3), attacks.by_cosine(known), search).psnr
        for known in (knowledge.naive, knowledge.spectral)
    )
    assert sum(informed) / 2 > sum(naive) / 2 + 3  # dB


def by_tv(method: posterior.Method) -> Attack:
    """With the one prior that needs no public images."""
    return attacks.by_posterior(attacks.total_variation, method, [])


ATTACKS = {
    "cosine": attacks.by_cosine(knowledge.naive),
    "L-BFGS": attacks.by_lbfgs(knowledge.naive),
    "MAP": by_tv(ADAM),
    "Gauss-Newton": by_tv(GAUSS_NEWTON),
    "posterior mean": by_tv(HAMILTONIAN),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_image_seed_and_setting_is_scored(name):
    scene, search = tiny_scene(), Search(iterations=2, restarts=2)
    settings = [(0.1,), (1.0,)] if name in ("cosine", "L-BFGS") else [(0.01, 3.0, 1.0), (0.1, 30.0, 10.0)]
    scores = evaluate.score(scene, defenses.gaussian(0.02), ATTACKS[name], scene.scored, [1, 2], settings, search)
    assert [len(one) for one in scores] == [1] * 8  # two images, two seeds, two settings


def test_attacks_of_several_settings_are_paired_with_theirs():
    """Each release and setting alone gives the image that it has among the others."""
    scene, search = tiny_scene(), Search(iterations=3)
    settings = [(0.01, 3.0, 1.0), (0.1, 30.0, 10.0)]
    releases = [defenses.gaussian(0.02)(scene.model, *batch, 1) for batch in scene.scored]
    together = by_tv(ADAM).rebuild(scene, releases, settings, search).images
    alone = [by_tv(ADAM).rebuild(scene, [r], [s], search).images[0] for r in releases for s in settings]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-4)


def test_attackers_have_as_much_to_choose_from_and_as_many_steps():
    known = {"cosine": ATTACKS["cosine"], "L-BFGS": ATTACKS["L-BFGS"], **with_priors.by_name()}
    assert {len(set(attack.settings)) for attack in known.values()} == {6}
    steps = {name: attacks.effort(attack, Search(iterations=10)).iterations for name, attack in known.items()}
    assert steps.pop("L-BFGS") == 4  # of single images, which cost several times as much as one of a batch
    assert set(steps.values()) == {10}


def test_every_defense_meets_an_attacker_that_knows_it():
    for table, rows in cases().items():
        for name, case in rows.items():
            scene = case.scene() if STATISTICS_SENT in name else tiny_scene()
            release = case.defense(scene.model, *scene.scored[0], 0)
            levels = torch.cat([std.flatten() for std in release.noise_std]).unique()
            something_to_know = len(levels) > 1 or release.unsmooth is not None
            assert bool(case.informed) == something_to_know, (table, name)
            know_all = set(with_priors.by_name()) if case.priors is None else set(case.priors)
            assert know_all <= set(case.names())
            others = {name.removesuffix(BY_LBFGS) for name in case.names()} - know_all
            assert others == {"naive", *case.informed}


@pytest.mark.parametrize("make", [case.scene for case in cases()[WORLDS].values() if case.scene is not scenes.resnet])
def test_scenes_have_whole_batches_and_no_image_twice(make):
    scene = make()
    batches = [*scene.tuning, *scene.scored]
    assert {len(batch.images) for batch in batches} == {len(batch.labels) for batch in batches} == {scene.batch_size}
    every = torch.cat([batch.images for batch in batches])
    assert len(every.flatten(1).unique(dim=0)) == len(every)
    assert scene.model(scene.scored[0].images).shape == (scene.batch_size, 10)


def test_scored_images_of_cifar_are_never_those_for_tuning(monkeypatch):
    numbered = Labeled(
        torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32), torch.arange(60) % 10
    )
    monkeypatch.setattr(images, "read", lambda *_: numbered)
    for batch_size, scored, tuning in ((1, 20, 6), (4, 20, 4), (16, 32, 16)):
        scenes._cifar.cache_clear()
        scene = scenes._scene(lambda: nets.small_conv_net(3, 32), pathlib.Path("there"), batch_size)
        found = [
            {round(255 * image.max().item()) for batch in part for image in batch.images}
            for part in (scene.scored, scene.tuning)
        ]
        assert [len(part) for part in found] == [scored, tuning]
        assert max(found[0]) < 40 <= min(found[1])
    scenes._cifar.cache_clear()


def measured(job: Job, effort: Effort) -> jobs.Line:
    psnr = 25.0 if job.defense == "none" else 20.0
    if job.attacker is None:
        return Cost(*job[:2], 97.0, 1.0)
    if job.attacker == CEILING:
        return Ceilings(*job[:2], effort.images, Figures([psnr + 0.5]), Figures([19.0]), 2.0)
    return row(*job, psnr, *[psnr] * 2 * effort.seeds)._replace(batches=2, **effort._asdict())


def run_study(monkeypatch, given: list[str], todo: list[Job], stop: int | None = None) -> list[Job]:
    """The jobs that a study measured, until it was interrupted after so many."""
    done: list[Job] = []

    def work(measure, left, given, workers):
        for job in left:
            done.append(job)
            yield measured(job, given[0])
            if len(done) == stop:
                raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "work", work)
    monkeypatch.setattr(with_priors, "missing", lambda data: {})
    monkeypatch.setattr(jobs, "attacks", lambda: [job for job in todo if job.attacker not in (None, CEILING)])
    monkeypatch.setattr(jobs, "trainings", lambda: [job for job in todo if not job.attacker])
    monkeypatch.setattr(jobs, "ceilings", lambda: [job for job in todo if job.attacker == CEILING])
    monkeypatch.setattr(with_priors, "trained", lambda data: [])
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    study.run(parser.parse_args(given))
    return done


def test_what_is_measured_is_not_run_again(tmp_path, monkeypatch):
    every = [job for job in [*jobs.attacks(), *jobs.trainings(), *jobs.ceilings()] if job.table == EQUAL]
    todo = [job for job in every if job.defense in ("none", "DP")]
    page = tmp_path / "page.md"
    marks = [*report.tables(Study(ROWS, COSTS, CEILINGS)), report.THREATS]
    page.write_text("".join(f"<!-- {mark}: begins -->\n<!-- {mark}: ends -->\n" for mark in marks))
    given = ["--data", "there", "--results", str(tmp_path), "--page", str(page), "--readme", str(page)]
    with pytest.raises(KeyboardInterrupt):
        run_study(monkeypatch, given, todo, stop=2)
    assert run_study(monkeypatch, given, todo) == todo[2:]
    # In the page's first table and the README's.
    assert page.read_text().count("| DP | 20.0 dB | 20.0 dB (20.0, 20.0) | naive | 20.0 dB | 0.80 | 97.0 % |") == 2
    assert (tmp_path / "privacy.png").stat().st_size > 0
    assert "| equal noise energy | DP | 20.5 dB | 19.0 dB | 20.0 dB | naive | +0.5 dB |  |" in page.read_text()
    attacked = [job for job in todo if job.attacker not in (None, CEILING)]
    before = page.read_text()
    assert run_study(monkeypatch, [*given, "--iterations", "7"], todo) == attacked  # which are not comparable
    assert page.read_text() == before  # they would say of less effort what they say of this


def test_study_without_data_leaves_the_pages_alone(tmp_path, monkeypatch, capsys):
    todo = [Job(EQUAL, defense, attacker) for defense in ("none", "DP") for attacker in ("naive", None)]
    page = tmp_path / "page.md"
    page.write_text("as it was")
    run_study(monkeypatch, ["--results", str(tmp_path), "--page", str(page), "--readme", str(page)], todo)
    assert page.read_text() == "as it was"
    assert "| DP | 20.0 dB |" in capsys.readouterr().out


def test_study_says_how_to_train_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("TIP_KERNELS_CACHE", str(tmp_path))
    with pytest.raises(
        SystemExit,
        match=r"prior of at least 1000 steps for flow, .*, got 0: train it by\n    python -m .* train-prior ",
    ):
        entry.main(["study"])
    for steps, enough in ((299, False), (1000, True)):
        for needed in with_priors.needed(None):
            torch.save({"settings": dataclasses.asdict(needed.settings), "steps": steps}, needed.settings.file())
        assert (with_priors.missing(None) == {}) is enough  # a few steps would make weak attackers, in silence
    assert with_priors.trained(None) == ["prior after 1,000 steps", "generator after 1,000 steps"]
    assert with_priors.missing(pathlib.Path("cifar10"))


def test_compare_uses_no_net_of_few_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("TIP_KERNELS_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match=r"expected a prior of at least 1000 steps for flow, plug-and-play, got 0: "):
        entry.main(["compare", "--attacker", "flow, plug-and-play"])


def test_gaps_are_of_the_images_that_have_ceilings():
    """Over the seeds' mean; every attacker is held against the ceilings, not only the strongest."""
    none, targeted = gaps.gaps(ROWS, CEILINGS)
    assert none == gaps.Gap(EQUAL, "none", 33.25, 30.5, 32.0, "naive", 1.25, -1.25, "naive")
    # The strongest by the images for tuning is spectral, with 24 and 25 dB; MAP has 27 and 28 under 26 and 27.
    assert targeted == gaps.Gap(EQUAL, "TIP 0.3", 26.5, 26.0, 24.5, "spectral", 2.0, 1.0, "MAP, Gaussian")
    assert gaps.rank_correlation([none, targeted]) == pytest.approx(1.0)
    # Both images of MAP; of the others only the first under no defense is no more than half a dB below, at 31.5 of 32.
    assert "Image by image 2 of 8 attacks are, 1 of these on image " in gaps.markdown(ROWS, CEILINGS)
    two_seeds = row(EQUAL, "none", "naive", 0.0, 10.0, 12.0, 20.0, 24.0)._replace(batches=2, seeds=2)
    assert gaps.by_image(two_seeds, 2) == [11.0, 22.0]
    of_four = row(EQUAL, "none", "naive", 0.0, *range(16))._replace(batches=2, seeds=2)
    assert gaps.by_image(of_four, 5) == [2.0, 3.0, 4.0, 5.0, 10.0]


def test_ceilings_are_measured():
    effort = Effort("photos", iterations=2, restarts=1, seeds=1)
    found = jobs.measure(Job(EQUAL, "DP", CEILING), (effort, Place("cpu", None)))
    assert found[:3] == (EQUAL, "DP", "photos")
    assert len(found.ceiling) == len(found.guess) == jobs.AUDITED["photos"] == 2
    assert min(found.ceiling) > 12  # dB, more than without a message


def test_a_job_is_measured():
    effort, place = Effort("photos", iterations=2, restarts=1, seeds=1), Place("cpu", None)
    found = jobs.measure(Job(EQUAL, "TIP 0.3", "spectral"), (effort, place))
    assert found[:3] == (EQUAL, "TIP 0.3", "spectral")
    assert found.effort() == effort
    assert (float(found.setting),) in attacks.by_cosine(knowledge.naive).settings
    assert len(found.psnr) == len(found.ssim) == found.batches == 4
    cost = jobs.measure(Job(EQUAL, "none", None), (effort, place))
    assert 50 < cost.accuracy <= 100  # percent, of ten classes


def test_control_reads_cifar(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    write_cifar(tmp_path)
    entry.main(["control", "--data", str(tmp_path), "--images", "2", "--iterations", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["CIFAR-10, 0", "CIFAR-10, 1", "median"]
    assert lines[-1].endswith("s an image")


def test_compare_has_a_line_for_each_attacker(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pyarrow")
    write_cifar(tmp_path)
    monkeypatch.setattr(scenes, "SCORED", slice(0, 1))
    monkeypatch.setattr(scenes, "TUNED_ON", slice(1, 2))
    arguments = ["compare", "--data", str(tmp_path), "--iterations", "2", "--no-ceiling"]
    entry.main([*arguments, "--attacker", "cosine + TV", "--attacker", "MAP, TV"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0].strip() for line in lines[1::2]] == ["cosine + TV", "MAP, TV"]
    assert all(float(line.split()[-1]) == float(line.split()[-2]) for line in lines[1:])  # one image is its median
    with pytest.raises(SystemExit, match="expected --attacker from cosine"):
        entry.main([*arguments, "--attacker", "guess"])


def test_pictures_are_the_closest_to_what_is_wanted(tmp_path, monkeypatch):
    """An attacker that returns the image plus the noise of its level: 40 dB for 0.01 and 20 dB for 0.1."""
    noise = {0.01: 0.01, 0.1: 0.1}
    monkeypatch.setattr(pictures, "NOISE", tuple(noise))
    monkeypatch.setattr(pictures, "WANTED", (35.0, 22.0))
    monkeypatch.setattr(with_priors, "missing", lambda data: {})
    monkeypatch.setattr(
        pictures,
        "rebuilt",
        lambda scene, attack, iterations: [
            torch.stack([batch.images + step for batch in scene.scored]) for step in noise.values()
        ],
    )
    told = []
    monkeypatch.setattr(figures, "grid", lambda images, captions, rows, size: told.append((images, captions, rows)))
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    entry.main(["pictures", "--images", "2", "--output", str(tmp_path / "pictures.png")])
    ((drawn, captions, rows),) = told
    assert (captions, rows) == (["original 1", "original 2", "40.0 dB", "40.0 dB", "20.0 dB", "20.0 dB"], 3)
    for number, batch in enumerate(scenes.one_image().scored[:2]):
        for row, step in enumerate((0.0, *noise.values())):
            shown = (batch.images[0] + step).clamp(0, 1)
            torch.testing.assert_close(drawn[2 * row + number], shown, rtol=0, atol=0.5 / 255 + 1e-6)


def test_pictures_are_of_every_noise_level(monkeypatch):
    monkeypatch.setattr(pictures, "NOISE", (0.01, 0.1))
    scene, attack = tiny_scene(), by_tv(ADAM)
    monkeypatch.setattr(pictures, "SETTING", (0.1, 3.0, 1.0))
    found = pictures.rebuilt(scene, attack, 2)
    assert [images.shape for images in found] == [(2, 1, 1, 12, 12)] * 2
    assert not torch.equal(*found)


@pytest.mark.parametrize("use", ["pictures", "ceilings"])
def test_labels_are_known_however_loud_the_noise(monkeypatch, use):
    """Read off a gradient under such noise they would be guesses, and the wrong net's answer would be looked for."""
    seen = []

    def rebuild(scene, releases, settings, search):
        seen.extend(release.labels for release in releases)
        return Reconstruction(*[torch.rand(len(releases), 1, 1, 12, 12)] * 3)

    def limits(model, release, *_):
        seen.append(release.labels)
        return Limits(torch.zeros(1), torch.zeros(1))

    monkeypatch.setattr(ceiling, "limits", limits)
    monkeypatch.setattr(attacks, "gaussian", lambda *_: None)
    monkeypatch.setattr(pictures, "NOISE", (10.0,))
    scene = tiny_scene()
    if use == "pictures":
        pictures.rebuilt(scene, Attack([], rebuild), 1)
    else:
        compare.ceilings(scene, defenses.gaussian(10.0), None)
    assert [labels.tolist() for labels in seen] == [[3], [3]]


def test_attack_saves_a_picture(tmp_path, capsys):
    picture = tmp_path / "attack.png"
    entry.main(["attack", "--attacker", "spectral", "--iterations", "2", "--output", str(picture)])
    assert capsys.readouterr().out.startswith("TIP 0.3, spectral: ")
    assert picture.stat().st_size > 0
    with pytest.raises(SystemExit, match="expected --attacker from naive for DP, got spectral"):
        entry.main(["attack", "--defense", "DP", "--attacker", "spectral"])


def write_cifar(folder):
    """Two images of noise as ``test.parquet``."""
    import io

    import numpy as np
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    rows = []
    for number, picture in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        rows.append({"img": {"bytes": file.getvalue(), "path": None}, "label": number})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
