"""What noise costs: clients noise for themselves, step sizes are chosen apart from the score, nothing is run twice."""

import gc
import io

import pytest
import torch

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("dp_accounting")
pytest.importorskip("matplotlib")
pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import tip_kernels as tip
from bench import paths
from bench.privacy import __main__ as entry
from bench.privacy.client import defenses
from bench.privacy.images import Labeled
from bench.privacy.nets import small_conv_net
from bench.privacy.study import fedsgd, noise_costs, shapes, step_size, strongest, tradeoff
from bench.privacy.study.cases import EQUAL, FLOORS
from bench.privacy.study.fedsgd import Plan
from bench.privacy.study.jobs import Row
from bench.privacy.study.ledger import Figures
from bench.privacy.study.noise_costs import Condition, Run, Summary
from bench.privacy.study.strongest import Median
from bench.privacy.study.tradeoff import Point

TINY = Plan(rounds=3, sampled=2, batch=3, clients=4)
OPTIONS = ["--rounds", "3", "--sampled", "2", "--batch", "3", "--clients", "4"]


def some_images(count):
    """Of random pixels, all different."""
    draw = torch.Generator().manual_seed(count)
    return Labeled(torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8), torch.arange(count) % 10)


def write_images(folder):
    for split, count in (("train", 40), ("test", 10)):
        rows = []
        for pixels, label in zip(*some_images(count), strict=True):
            file = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
            rows.append({"img": {"bytes": file.getvalue(), "path": None}, "label": label.item()})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


# --- federated training


def test_every_client_sends_what_its_defense_lets_out_of_its_own_images():
    train, called = some_images(40), []

    def recorded(model, images, labels, seed):
        called.append((images, labels, seed))
        return defenses.gaussian(0.1)(model, images, labels, seed)

    fedsgd.trained(recorded, train, 0.1, 5, TINY)
    assert len({seed for _, _, seed in called}) == len(called) == 6
    known = {pixels.sum().item(): index for index, pixels in enumerate(fedsgd.pixels(train))}
    drawn = [[known[pixels.sum().item()] for pixels in images] for images, _, _ in called]
    assert all(len(set(batch)) == 3 for batch in drawn)
    for batch, (_, labels, _) in zip(drawn, called, strict=True):
        assert torch.equal(train.labels[batch], labels)
    # Two of four clients a round: the third round is the first two clients' again.
    owned = [set(drawn[0] + drawn[4]), set(drawn[1] + drawn[5]), set(drawn[2]), set(drawn[3])]
    assert len(set().union(*owned)) == sum(len(images) for images in owned)
    assert all(len(images) <= 10 for images in owned)


@pytest.mark.parametrize("name", noise_costs.MAKERS)
def test_the_first_round_moves_by_the_mean_of_the_releases(name):
    defense, called, before = noise_costs.MAKERS[name](0.1), [], []

    def recorded(model, images, labels, seed):
        before[:] = before or [p.detach().clone() for p in model.parameters()]
        called.append((images, labels, seed))
        return defense(model, images, labels, seed)

    after = fedsgd.trained(recorded, some_images(40), 0.5, 1, TINY._replace(rounds=1))
    torch.manual_seed(1)
    again = small_conv_net(channels=3, size=32)
    sent = [defense(again, *arguments).gradient for arguments in called]
    for old, new, *gradients in zip(before, after.parameters(), *sent, strict=True):
        assert torch.allclose(new, old - 0.5 * sum(gradients) / len(sent), atol=1e-6)


def test_a_training_repeats_and_leaves_the_garbage_collector_as_it_was():
    frozen = gc.get_freeze_count()
    first, second, other = (
        fedsgd.trained(defenses.targeted_with_floor(0.05), some_images(40), 0.1, seed, TINY) for seed in (1, 1, 2)
    )
    assert gc.get_freeze_count() == frozen
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)


def test_federated_training_learns():
    train = some_images(40)
    model = fedsgd.trained(defenses.none, train, 0.1, 1, Plan(rounds=60, sampled=4, batch=8, clients=4))
    assert fedsgd.accuracy(model, train) > 60


def test_a_client_sends_as_often_as_its_turn_comes():
    assert TINY.messages() == 2  # six messages of four clients
    assert Plan(rounds=600, sampled=10, clients=1000).messages() == 6


# --- step sizes, seeds, intervals


@pytest.mark.parametrize("best", [0.0111, 0.1, 0.3, 2.7])
def test_the_best_step_size_is_found_on_either_side(best):
    tried = []

    def validated(lr):
        tried.append(lr)
        return -abs(torch.tensor(lr / best).log().item())

    assert step_size.best_lr(validated) == best
    assert len(set(tried)) == len(tried)


def test_chance_on_the_way_does_not_stop_the_search():
    """Where noise is loud, the first step size and a larger one both fail, one a little less by luck."""
    accuracy = {0.9: 9.9, 0.3: 10.5, 0.1: 10.2, 0.0333: 17.0, 0.0111: 25.0, 0.0037: 21.0}
    assert step_size.best_lr(accuracy.__getitem__) == 0.0111


def test_step_sizes_are_chosen_by_validation_and_a_seed_that_is_not_scored(tmp_path, monkeypatch):
    made = []

    def measure(condition, plan, lr, seed, images):
        made.append((lr, seed))
        if len(made) == 5:
            raise KeyboardInterrupt
        # On the test images the smaller step is better.
        return Run(*condition, *plan, lr, seed, {0.1: 40.0, 0.3: 50.0}.get(lr, 10.0), 60 - 100 * lr + seed, 1.0)

    monkeypatch.setattr(noise_costs, "measure", measure)
    path, asked = tmp_path / "utility.csv", [Condition("DP", 0.02)]

    def summarize():
        return list(noise_costs.summaries(noise_costs.Runs(path), asked, TINY, 2, lambda: None))

    with pytest.raises(KeyboardInterrupt):
        summarize()
    (found,) = summarize()
    assert made == [
        (0.1, 0),
        (0.0333, 0),
        (0.3, 0),
        (0.9, 0),
        (0.3, 1),
        (0.3, 1),
        (0.3, 2),
    ]  # the fifth: stopped
    assert (found.lr, found.mean) == (0.3, 31.5)
    summarize()
    assert len(made) == 7


def test_the_interval_is_students():
    assert noise_costs.interval([1.0, 2.0, 3.0]) == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert noise_costs.interval([1.0]) == float("inf")


def test_epsilon_is_the_accountants():
    assert noise_costs.epsilon(3.73, 1) == pytest.approx(1.0, abs=0.01)  # by the analytic Gaussian mechanism
    assert noise_costs.epsilon(1.0, 10) > 2 * noise_costs.epsilon(1.0, 1)
    assert noise_costs.epsilon(0.0, 1) == float("inf")


def test_what_was_trained_can_be_read_without_training():
    def run(defense, noise, seed, accuracy, plan=TINY):
        return Run(defense, noise, *plan, 0.1, seed, 99.0, accuracy, 1.0)

    runs = [run("none", 0.0, 0, 99.0), *(run("DP", 0.02, seed, 40.0 + seed) for seed in range(4))]
    runs.append(run("DP", 0.02, 1, 90.0, plan=TINY._replace(rounds=9)))
    runs.append(run("DP", 0.1, 1, 30.0))  # the training was stopped after its first seed
    (found,) = noise_costs.scored(runs, TINY)
    assert found[:2] == (("DP", 0.02), 42.0)
    assert found.half_width == noise_costs.interval([41.0, 42.0, 43.0])


def test_the_command_measures_what_is_missing(tmp_path, capsys):
    write_images(tmp_path)
    command = ["utility", "--data", str(tmp_path), "--results", str(tmp_path), "--seeds", "2", *OPTIONS]
    entry.main([*command, "--noise", "0.2"])
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split(" | ")[0] for line in table] == ["| none", "| DP", "| TIP 0.3 with floor"]
    assert table[1].split(" | ")[4] == table[2].split(" | ")[4] == "33.1"
    runs = noise_costs.Runs(tmp_path / "utility.csv").lines
    entry.main([*command, "--noise", "0.2,0.1"])
    more = noise_costs.Runs(tmp_path / "utility.csv").lines
    assert {run for run in more if run.noise != 0.1} == set(runs)  # their seconds too
    assert {run.noise for run in more} == {0.0, 0.1, 0.2}


# --- the figure


def points(*names):
    return [Point("none", 0.0, Median(41.0, 40.0, 42.0), 50.0, 1.0, float("inf"))] + [
        Point(name, noise, Median(10 / noise**0.2, 10.0, 30.0), 50 - 100 * noise, 1.0, 10 / noise)
        for name in names
        for noise in (0.02, 0.1)
    ]


def test_points_are_of_what_was_attacked_and_trained():
    def row(table, defense, *psnr):
        figures = Figures(psnr)
        return Row(table, defense, "naive", "cifar10", 200, 1, 1, "1", 20.0, len(psnr), figures, figures, 1.0)

    rows = [row(EQUAL, "none", 39.0, 40.0, 44.0), row(FLOORS, "DP 0.02", 18.0), row(FLOORS, "TIP 0.3, floor 0.1", 12.0)]
    trained = [
        Summary(Condition(name, noise), 50.0, 1.0, 0.1, 3)
        for name, noise in (("none", 0.0), ("DP", 0.02), ("DP", 0.1), ("TIP 0.3 with floor", 0.1))
    ]
    found = tradeoff.points(strongest.strongest(rows), trained)
    assert [(point.defense, point.noise, point.psnr.value) for point in found] == [
        ("none", 0.0, 40.0),
        ("DP", 0.02, 18.0),
        ("TIP 0.3 with floor", 0.1, 12.0),
    ]
    assert found[1].epsilon == noise_costs.epsilon(0.02, 1)


def test_the_figure_names_every_noise_and_epsilon():
    noisy, silent = tradeoff.draw(points("DP", "TIP")).axes
    written = [text.get_text() for text in noisy.texts]
    assert sorted(written) == ["DP", "TIP", "noise 0.02\nε 500", "noise 0.1\nε 100", "safe: 13 dB"]
    assert [text.get_text() for text in silent.texts] == ["none"]
    with pytest.raises(ValueError, match="expected at most 2 defenses with noise, got DP, TIP, APG"):
        tradeoff.draw(points("DP", "TIP", "APG"))


# --- fitted spectra


def test_a_spectrum_is_as_private_as_its_least_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PRIVACY_RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m bench.privacy shape"):
        shapes.MAKERS["spectrum"](0.1)
    stds = {"0.weight": torch.full((2, 5, 3), 0.2), "0.bias": 0.05, "2.weight": 0.2, "2.bias": 0.2}
    kept = tip.Spectrum({**stds, "5.weight": 0.2, "5.bias": 0.2})
    for ratio in shapes.RATIOS.values():
        path = shapes.file(ratio, 0.1)
        path.parent.mkdir(exist_ok=True)
        kept.save(path)
    names = [one.defense for one in noise_costs.conditions([0.1], with_shapes=True) if "spectrum" in one.defense]
    assert names == list(shapes.MAKERS)
    assert not any("spectrum" in one.defense for one in noise_costs.conditions([0.1]))
    assert [shapes.least(name, 0.1) for name in names] == [0.05, 0.05, 0.1, 0.1]
    lines = noise_costs.markdown([Summary(Condition(name, 0.1), 50.0, 1.0, 0.1, 5) for name in names], 6).splitlines()
    epsilons = [line.split(" | ")[4] for line in lines[2:]]
    assert epsilons == [f"{noise_costs.epsilon(noise, 1):,.4g}" for noise in (0.05, 0.05, 0.1, 0.1)]


@pytest.mark.parametrize(("name", "factor"), [("TIP 0.3, spectrum", 1.0), ("TIP 0.3, spectrum, equal guarantee", 2.0)])
def test_a_client_has_the_noise_of_its_spectrum(tmp_path, monkeypatch, name, factor):
    """In what it sends, and in what attackers are told of it."""
    monkeypatch.setattr(paths, "PRIVACY_RESULTS", tmp_path)
    torch.manual_seed(0)
    model = small_conv_net(channels=1, size=8, width=64)
    stds = {key: 5.0 + 5 * (key == "5.weight") for key, _ in model.named_parameters()}
    stds["2.weight"] = torch.tensor([20.0, 40.0]).view(2, 1, 1).expand(2, 5, 3)
    shapes.file(0.3, 10.0).parent.mkdir()
    tip.Spectrum(stds).save(shapes.file(0.3, 10.0))
    release = shapes.MAKERS[name](10.0)(model, torch.rand(1, 1, 8, 8), torch.tensor([3]), 1)
    by_name = dict(zip(stds, zip(release.gradient, release.noise_std, strict=True), strict=True))
    assert by_name["5.weight"][0].std().item() == pytest.approx(10.0 * factor, rel=0.1)
    gradient, told = by_name["2.weight"]
    levels = told.expand(gradient.flatten(2).shape)
    assert sorted(set(levels.flatten().tolist())) == pytest.approx([20.0 * factor, 40.0 * factor])
    for level in (20.0 * factor, 40.0 * factor):
        assert gradient.flatten(2)[levels == level].std().item() == pytest.approx(level, rel=0.05)
