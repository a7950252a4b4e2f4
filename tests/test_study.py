"""The study's bookkeeping: nothing is run twice, and the strongest attacker is the one that is shown."""

import argparse

import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import torch

from bench import pages, paths
from bench.privacy import __main__ as entry
from bench.privacy import nets
from bench.privacy.attacker import inversion, knowledge
from bench.privacy.attacker.inversion import Search
from bench.privacy.client import defenses
from bench.privacy.commands import study
from bench.privacy.study import evaluate, jobs, ledger, metrics, report
from bench.privacy.study.cases import BY_LBFGS, EQUAL, HARDER, PUBLISHED, cases
from bench.privacy.study.jobs import Cost, Effort, Job, Row
from bench.privacy.study.scenes import Scene

ROWS = [
    Row(EQUAL, "none", "naive", 0.01, 31.5, 32.0, 0.95, 20.0),
    Row(EQUAL, "TIP 0.3", "naive", 1.0, 15.0, 16.0, 0.35, 20.0),
    Row(EQUAL, "TIP 0.3", "spectral", 0.01, 27.0, 29.0, 0.8, 20.0),
    Row(PUBLISHED, "TIP 0.3", "naive", 1.0, 30.0, 30.5, 0.35, 20.0),
]
COSTS = [Cost(EQUAL, "none", 97.5, 3.0), Cost(EQUAL, "TIP 0.3", 97.0, 3.0)]


def test_lines_survive_a_restart(tmp_path):
    for kind, lines in ((Row, ROWS), (Cost, COSTS)):
        path = tmp_path / f"{kind.__name__}.csv"
        assert ledger.load(kind, path) == []
        jobs.save(lines[::-1], path)
        assert ledger.load(kind, path) == lines  # in the order of the tables


def test_strongest_attacker_of_the_table_is_shown():
    assert report.worst(ROWS, EQUAL) == [ROWS[0], ROWS[2]]
    line = report.markdown(EQUAL, ROWS, COSTS).splitlines()[-1]
    assert line == "| TIP 0.3 | 15.0 dB | 27.0 dB | spectral | 29.0 dB | 0.80 | 97.0 % |"
    assert report.markdown(PUBLISHED, ROWS, COSTS).splitlines()[-1].endswith("| 0.35 |")


def test_only_the_table_of_the_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    marks = f"<!-- {EQUAL}: begins -->\n{{}}<!-- {EQUAL}: ends -->\n"
    page.write_text(f"before\n{marks.format('old')}after\n")
    pages.publish(page, EQUAL, "new")
    assert page.read_text() == f"before\n{marks.format('new' + chr(10))}after\n"
    with pytest.raises(ValueError, match="expected <!-- other attacks: begins -->"):
        pages.publish(page, HARDER, "new")


def test_marks_of_the_tables_are_there():
    for page, tables in ((paths.PRIVACY_PAGE, (EQUAL, PUBLISHED, HARDER)), (paths.README, (report.THREATS,))):
        for table in tables:
            assert page.read_text().count(f"<!-- {table}: ") == 2
    assert set(report.SHOWN) <= set(cases()[EQUAL])


def tiny_scene(**changes) -> Scene:
    """Images of 12 pixels, the least that SSIM takes, and a small net."""
    torch.manual_seed(0)
    images = torch.rand(3, 1, 1, 12, 12)
    scene = Scene(nets.small_conv_net(channels=1, size=12, width=4), images[:1], images[1:], torch.tensor([3]))
    return scene._replace(**changes)


def test_smoothing_is_tuned_on_images_that_are_not_scored(monkeypatch):
    asked = []

    def score(scene, defense, attacker, batches, seeds, smoothings, search):
        asked.append((batches, list(seeds)))
        good = metrics.Score(20.0, 0.5)
        return [
            evaluate.Try(smoothing, [good._replace(psnr=-abs(smoothing - 0.1))], [[good], [good._replace(psnr=25.0)]])
            for smoothing in smoothings
        ]

    monkeypatch.setattr(evaluate, "score", score)
    scene = tiny_scene()
    outcome = evaluate.outcome(scene, defenses.none, knowledge.naive, Search(), seeds=range(1, 3))
    assert outcome.smoothing == 0.1
    assert asked == [(scene.tuning, [0]), (scene.scored, [1, 2])]
    assert (outcome.psnr_median, outcome.psnr_best) == (0.0, 25.0)  # of the chosen start; of any


def test_informed_attacker_is_stronger_on_a_tiny_model():
    scene, search = tiny_scene(), Search(iterations=60)
    naive, informed = (
        evaluate.outcome(scene, defenses.targeted(1.0, 0.3), attacker, search).psnr_median
        for attacker in (knowledge.naive, knowledge.spectral)
    )
    assert informed > naive + 3  # dB


@pytest.mark.parametrize("invert", [inversion.invert, inversion.invert_lbfgs])
def test_every_image_seed_and_smoothing_is_scored(invert):
    search = Search(iterations=2, restarts=2)
    tries = evaluate.score(
        tiny_scene(invert=invert),
        defenses.gaussian(0.02),
        knowledge.naive,
        tiny_scene().scored,
        [1, 2],
        [0.1, 1],
        search,
    )
    assert [one.smoothing for one in tries] == [0.1, 1] * 4
    assert all(len(one.chosen) == 1 and len(one.starts) == 2 for one in tries)
    assert all(one.chosen in one.starts for one in tries)


def test_every_defense_meets_an_attacker_that_knows_it():
    scene = tiny_scene()
    for table, rows in cases().items():
        for name, case in rows.items():
            release = case.defense(scene.model, scene.scored[0], scene.labels, 0)
            levels = torch.cat([std.flatten() for std in release.noise_std]).unique()
            something_to_know = len(levels) > 1 or release.unsmooth is not None
            assert bool(case.informed) == something_to_know, (table, name)
            assert {name.removesuffix(BY_LBFGS) for name in case.names()} == {"naive", *case.informed}


def test_what_is_measured_is_not_run_again(tmp_path, monkeypatch):
    todo = [job for job in jobs.all_jobs() if job.table == EQUAL and job.defense in ("none", "DP")]
    done = []

    def work(measure, left, effort, workers):
        for job in left:
            done.append(job)
            line = Row(*job, 0.1, 20.0, 21.0, 0.5, 1.0) if job.attacker else Cost(*job[:2], 97.0, 1.0)
            yield line
            if len(done) == 2:
                raise KeyboardInterrupt

    page, tables = tmp_path / "page.md", (EQUAL, PUBLISHED, HARDER, report.THREATS)
    page.write_text("".join(f"<!-- {table}: begins -->\n<!-- {table}: ends -->\n" for table in tables))
    monkeypatch.setattr(ledger, "work", work)
    monkeypatch.setattr(jobs, "all_jobs", lambda: todo)
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    options = parser.parse_args(["--results", str(tmp_path), "--page", str(page), "--readme", str(page)])
    with pytest.raises(KeyboardInterrupt):
        study.run(options)
    study.run(options)
    assert done == todo
    # In the page's first table and the README's.
    assert page.read_text().count("| DP | 20.0 dB | 20.0 dB | naive | 21.0 dB | 0.50 | 97.0 % |") == 2
    assert (tmp_path / "privacy.png").stat().st_size > 0


def test_a_job_is_measured():
    effort = Effort(iterations=2, seeds=1, restarts=1, epochs=1)
    row = jobs.measure(Job(EQUAL, "TIP 0.3", "spectral"), effort)
    assert row[:3] == (EQUAL, "TIP 0.3", "spectral")
    assert row.smoothing in evaluate.SMOOTHING
    assert row.psnr_median <= row.psnr_best
    cost = jobs.measure(Job(EQUAL, "none", None), effort)
    assert 50 < cost.accuracy <= 100  # percent, of ten classes


def test_control_reads_cifar(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    write_cifar(tmp_path)
    entry.main(["control", "--data", str(tmp_path), "--images", "2", "--iterations", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["CIFAR-10, 0", "CIFAR-10, 1", "median"]
    assert lines[-1].endswith("s an image")


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
