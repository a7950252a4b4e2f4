"""The study's bookkeeping: nothing is run twice, and the strongest attacker is the one that is shown."""

import argparse
import pathlib

import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

import torch

from bench import pages, paths
from bench.privacy import __main__ as entry
from bench.privacy import nets
from bench.privacy.attacker import knowledge, posterior
from bench.privacy.attacker.climbing import ADAM
from bench.privacy.attacker.gauss_newton import GAUSS_NEWTON
from bench.privacy.attacker.inversion import Search
from bench.privacy.attacker.sampling import HAMILTONIAN
from bench.privacy.client import defenses
from bench.privacy.commands import compare, study
from bench.privacy.prior.settings import of_data
from bench.privacy.study import attacks, evaluate, jobs, ledger, metrics, report
from bench.privacy.study.attacks import Attack
from bench.privacy.study.cases import BY_LBFGS, EQUAL, HARDER, PUBLISHED, cases
from bench.privacy.study.jobs import Cost, Effort, Job, Row
from bench.privacy.study.scenes import Scene

ROWS = [
    Row(EQUAL, "none", "naive", "0.01", 31.5, 32.0, 0.95, 20.0),
    Row(EQUAL, "TIP 0.3", "naive", "1", 15.0, 16.0, 0.35, 20.0),
    Row(EQUAL, "TIP 0.3", "MAP, Gaussian", "0.1 3", 27.0, 29.0, 0.8, 20.0),
    Row(PUBLISHED, "TIP 0.3", "naive", "1", 30.0, 30.5, 0.35, 20.0),
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
    assert line == "| TIP 0.3 | 15.0 dB | 27.0 dB | MAP, Gaussian | 29.0 dB | 0.80 | 97.0 % |"
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


def test_settings_are_tuned_on_images_that_are_not_scored(monkeypatch):
    asked = []

    def score(scene, defense, attack, batches, seeds, settings, search):
        asked.append((batches, list(seeds)))
        good = metrics.Score(20.0, 0.5)
        return [
            evaluate.Try(setting, [good._replace(psnr=-abs(setting[0] - 0.1))], [[good], [good._replace(psnr=25.0)]])
            for setting in settings
        ]

    monkeypatch.setattr(evaluate, "score", score)
    scene = tiny_scene()
    outcome = evaluate.outcome(scene, defenses.none, attacks.by_cosine(knowledge.naive), Search(), seeds=range(1, 3))
    assert outcome.setting == (0.1,)
    assert asked == [(scene.tuning, [0]), (scene.scored, [1, 2])]
    assert (outcome.psnr_median, outcome.psnr_best) == (0.0, 25.0)  # of the chosen start; of any


def test_informed_attacker_is_stronger_on_a_tiny_model():
    scene, search = tiny_scene(), Search(iterations=60)
    naive, informed = (
        evaluate.outcome(scene, defenses.targeted(1.0, 0.3), attacks.by_cosine(known), search).psnr_median
        for known in (knowledge.naive, knowledge.spectral)
    )
    assert informed > naive + 3  # dB


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
    tries = evaluate.score(scene, defenses.gaussian(0.02), ATTACKS[name], scene.scored, [1, 2], settings, search)
    assert [one.setting for one in tries] == settings * 4
    assert all(len(one.chosen) == 1 and len(one.starts) == 2 for one in tries)
    if name != "posterior mean":  # which is the mean of all starts
        assert all(one.chosen in one.starts for one in tries)


def test_attacks_of_several_settings_are_paired_with_theirs():
    """Each release and setting alone gives the image that it has among the others."""
    scene, search = tiny_scene(), Search(iterations=3)
    settings = [(0.01, 3.0, 1.0), (0.1, 30.0, 10.0)]
    releases = [defenses.gaussian(0.02)(scene.model, image, scene.labels, 1) for image in scene.scored]
    together = by_tv(ADAM).rebuild(scene, releases, settings, search).images
    alone = [by_tv(ADAM).rebuild(scene, [r], [s], search).images[0] for r in releases for s in settings]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-4)


def test_attackers_have_as_much_to_choose_from_and_as_many_steps():
    known = {"cosine": ATTACKS["cosine"], "L-BFGS": ATTACKS["L-BFGS"], **attacks.by_name()}
    assert {len(set(attack.settings)) for attack in known.values()} == {6}
    steps = {name: attacks.effort(attack, Search(iterations=10)).iterations for name, attack in known.items()}
    assert steps.pop("L-BFGS") == 4  # its steps are of three evaluations, about
    assert set(steps.values()) == {10}


def test_every_defense_meets_an_attacker_that_knows_it():
    scene = tiny_scene()
    for table, rows in cases().items():
        for name, case in rows.items():
            release = case.defense(scene.model, scene.scored[0], scene.labels, 0)
            levels = torch.cat([std.flatten() for std in release.noise_std]).unique()
            something_to_know = len(levels) > 1 or release.unsmooth is not None
            assert bool(case.informed) == something_to_know, (table, name)
            know_all = set(attacks.by_name())
            assert know_all <= set(case.names())
            others = {name.removesuffix(BY_LBFGS) for name in case.names()} - know_all
            assert others == {"naive", *case.informed}


def test_what_is_measured_is_not_run_again(tmp_path, monkeypatch):
    todo = [job for job in jobs.all_jobs() if job.table == EQUAL and job.defense in ("none", "DP")]
    done, offered = [], []

    def work(measure, left, effort, workers):
        offered.append({job.attacker for job in left})
        for job in left:
            done.append(job)
            line = Row(*job, "0.1", 20.0, 21.0, 0.5, 1.0) if job.attacker else Cost(*job[:2], 97.0, 1.0)
            yield line
            if len(done) == 2:
                raise KeyboardInterrupt

    page, tables = tmp_path / "page.md", (EQUAL, PUBLISHED, HARDER, report.THREATS)
    page.write_text("".join(f"<!-- {table}: begins -->\n<!-- {table}: ends -->\n" for table in tables))
    monkeypatch.setattr(ledger, "work", work)
    monkeypatch.setattr(jobs, "all_jobs", lambda: todo)
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    given = ["--results", str(tmp_path), "--page", str(page), "--readme", str(page)]
    options = parser.parse_args([*given, "--with-priors"])
    with pytest.raises(KeyboardInterrupt):
        study.run(parser.parse_args(given))
    study.run(options)
    assert [bool(names & set(attacks.by_name())) for names in offered] == [False, True]
    assert done == todo
    # In the page's first table and the README's.
    assert page.read_text().count("| DP | 20.0 dB | 20.0 dB | naive | 21.0 dB | 0.50 | 97.0 % |") == 2
    assert (tmp_path / "privacy.png").stat().st_size > 0


def test_a_job_is_measured():
    effort = Effort(iterations=2, seeds=1, restarts=1, epochs=1)
    row = jobs.measure(Job(EQUAL, "TIP 0.3", "spectral"), effort)
    assert row[:3] == (EQUAL, "TIP 0.3", "spectral")
    assert (float(row.setting),) in attacks.by_cosine(knowledge.naive).settings
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


def test_compare_has_a_line_for_each_attacker(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pyarrow")
    write_cifar(tmp_path)
    monkeypatch.setattr(compare, "TUNED_ON", slice(1, 2))
    arguments = ["compare", "--data", str(tmp_path), "--images", "1", "--iterations", "2", "--no-ceiling"]
    entry.main([*arguments, "--attacker", "cosine + TV", "--attacker", "MAP, TV"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0].strip() for line in lines[1::2]] == ["cosine + TV", "MAP, TV"]
    assert all(float(line.split()[-1]) == float(line.split()[-2]) for line in lines[1:])  # one image is its median
    with pytest.raises(SystemExit, match="expected --attacker from cosine"):
        entry.main([*arguments, "--attacker", "guess"])


def test_compare_leaves_a_prior_out_that_was_not_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("TIP_KERNELS_CACHE", str(tmp_path))
    assert compare.has_what_it_needs("posterior mean", None)
    assert not compare.has_what_it_needs("flow, plug-and-play", None)
    of_data(None).file().touch()
    assert compare.has_what_it_needs("flow, plug-and-play", None)
    assert not compare.has_what_it_needs("flow, plug-and-play", pathlib.Path("cifar10"))


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
