"""Scalar noise mathematics against independent computations."""

import importlib.metadata
import math
import sys

import mpmath
import pytest
import torch
from torch import nn

from tip_kernels import TIP, NoiseRNG, calibration, spectrum

mpmath.mp.dps = 50


def exact_delta(epsilon, std):
    """Balle & Wang 2018, theorem 8, for sensitivity 1, to 50 digits."""
    epsilon, std = mpmath.mpf(epsilon), mpmath.mpf(std)
    a, b = 1 / (2 * std), epsilon * std
    return mpmath.ncdf(a - b) - mpmath.exp(epsilon) * mpmath.ncdf(-a - b)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-9, 1e-5, 1e-3, 0.1, 0.5, 0.999])
def test_analytic_gaussian_is_tight(epsilon, delta):
    """The std is the root of the exact condition to 1e-10 of itself, where delta falls as std grows."""
    std = calibration.analytic_gaussian_std(epsilon, delta)
    assert exact_delta(epsilon, std * (1 - 1e-10)) > delta > exact_delta(epsilon, std * (1 + 1e-10))


def test_analytic_gaussian_scales_with_sensitivity():
    one = calibration.analytic_gaussian_std(2.0, 1e-5)
    assert calibration.analytic_gaussian_std(2.0, 1e-5, sensitivity=0.25) == 0.25 * one


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 0.99])
def test_classical_gaussian_is_private_where_its_proof_holds(epsilon):
    std = calibration.classical_gaussian_std(epsilon, 1e-5)
    assert std == pytest.approx(math.sqrt(2 * math.log(1.25e5)) / epsilon, rel=1e-15)
    assert exact_delta(epsilon, std) < 1e-5
    assert std > calibration.analytic_gaussian_std(epsilon, 1e-5)


def test_classical_gaussian_is_not_private_far_beyond():
    """Why it is not the default: at epsilon 10 its noise gives a larger delta than promised."""
    assert exact_delta(10.0, calibration.classical_gaussian_std(10.0, 1e-5)) > 1e-5


def test_local_update_sensitivity():
    assert calibration.local_update_sensitivity(steps=5, lr=0.1, max_grad_norm=2.0, batch_size=10) == pytest.approx(0.1)


@pytest.mark.parametrize("kernel_size", [(3, 3), (5, 5), (4, 4), (1, 7), (3, 5)])
@pytest.mark.parametrize("cutoff", [0.5, 0.75])
def test_paper_noise_is_our_noise(kernel_size, cutoff):
    """The covariance, over the taps, of the paper's complex noise procedure and of std * B @ xi, exactly."""
    beta, taps = 0.7, math.prod(kernel_size)
    half = spectrum.radial_mask(kernel_size, cutoff)
    basis, d = spectrum.real_basis(kernel_size, half)
    full = torch.fft.fftn(torch.fft.irfftn(half.double(), s=kernel_size)).real > 0.5  # the mask of all bins
    unit = torch.eye(taps, dtype=torch.float64).reshape(taps, *kernel_size)
    # The procedure is linear in its real and imaginary unit normals: one row for each of the 2K.
    normals = torch.cat([unit + 0j, 1j * unit]) * full
    rows = beta * torch.fft.ifft2(normals).real.flatten(1)
    std = calibration.spectrum_std(beta, taps)
    want = std**2 * basis[:, :d] @ basis[:, :d].T
    assert (rows.T @ rows - want).abs().max() <= 1e-14  # products of numbers below 1, in float64
    assert want.diagonal().sum() == pytest.approx(std**2 * d)  # so a tap has variance std^2 d / K


def test_relative_std():
    grads = [torch.tensor([3.0, -4.0]), torch.full((2, 2), 0.5, dtype=torch.bfloat16), torch.zeros(0)]
    std = calibration.relative_std(grads, 0.1)
    assert std.dtype == torch.float32
    assert std.tolist() == pytest.approx([0.1 * math.sqrt(12.5), 0.05, 0.0])


def guaranteed(noise=1.0, **settings):
    """A TIP with noise of ``noise`` times the clipping norm everywhere, which needs no scores."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    settings = {"max_grad_norm": 2.0, "scores": "public", "std": 2 * noise, "floor_std": 2 * noise, **settings}
    return TIP(model, **settings)


@pytest.mark.filterwarnings("ignore:expected delta of at least:RuntimeWarning")  # it is about exact arithmetic here
@pytest.mark.parametrize("noise", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
@pytest.mark.parametrize(("relation", "sensitivity"), [("add_or_remove", 1), ("replace", 2)])
@pytest.mark.parametrize("rounds", [1, 9])
def test_accounted_epsilon_is_the_gaussian_mechanisms(noise, delta, relation, sensitivity, rounds):
    """Never below the exact epsilon (theorem 8), and above it by no more than one step of the grid of losses.

    9 rounds of noise are one of a third of it; the replaced message is twice as far away. Besides the grid, the
    library cuts tails of 2e-22, which these deltas do not notice.
    """
    epsilon = calibration.accounted_epsilon(guaranteed(noise), rounds=rounds, delta=delta, relation=relation)
    exact_std = noise / sensitivity / math.sqrt(rounds)
    grid = 1e-3 * max(1, rounds / noise**2)
    assert exact_delta(epsilon, exact_std) <= delta < exact_delta(epsilon - grid, exact_std)


@pytest.mark.parametrize("version", ["0.4.4", "0.5.0"])
def test_accountant_must_know_replacement(version, monkeypatch):
    """dp-accounting 0.4 gives the epsilon of "add_or_remove" for "replace"."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if version == "0.5.0":
        assert calibration.accounted_epsilon(guaranteed(), rounds=1, delta=1e-5) > 0
        return
    with pytest.raises(ImportError, match=r"expected dp-accounting 0.5 or newer, got 0.4.4"):
        calibration.accounted_epsilon(guaranteed(), rounds=1, delta=1e-5)


def test_a_delta_that_the_tails_of_the_noise_cannot_honor_is_answered_with_a_warning():
    """2^32 radii: the largest is sqrt(66 ln 2)."""
    beyond = math.erfc(math.sqrt(66 * math.log(2) / 2))
    assert beyond == pytest.approx(1.35e-11, rel=0.01)
    defense = guaranteed()
    assert defense.elements == 2 * 9 + 2 + 4 * 2 + 2 * 8 + 2  # conv, batch norm with its statistics, linear
    options = {"rounds": 1000}
    with pytest.warns(RuntimeWarning, match=r"expected delta of at least 6.3e-07, got 1e-07: ideal noise of 46,000"):
        calibration.accounted_epsilon(defense, delta=1e-7, **options)
    calibration.accounted_epsilon(defense, delta=1e-6, **options)


def test_epsilon_grows_with_rounds_and_with_sampling():
    def epsilon(rounds, sampling_probability):
        options = {"rounds": rounds, "sampling_probability": sampling_probability, "delta": 1e-5}
        return calibration.accounted_epsilon(guaranteed(), **options)

    by_rounds = [epsilon(rounds, 0.1) for rounds in (1, 10, 100)]
    assert by_rounds == sorted(set(by_rounds))
    by_sampling = [epsilon(10, probability) for probability in (0.01, 0.1, 0.5, 1.0)]
    assert by_sampling == sorted(set(by_sampling))


def test_sampled_epsilon_of_one_round():
    """One round against its definition: q N(1, s^2) + (1 - q) N(0, s^2) beside N(0, s^2), in both directions."""
    q, s, delta = 0.1, 1.0, 1e-5
    epsilon = calibration.accounted_epsilon(guaranteed(s), rounds=1, delta=delta, sampling_probability=q)

    def exact(epsilon):
        """The larger of the two hockey-stick divergences; the densities cross once, where the loss is epsilon."""

        def mass(x, probability):  # of the numbers above x
            inside, outside = mpmath.ncdf((1 - x) / s), mpmath.ncdf(-x / s)
            return probability * inside + (1 - probability) * outside

        up = s**2 * mpmath.log((mpmath.exp(epsilon) - 1 + q) / q) + 0.5
        deltas = [mass(up, q) - mpmath.exp(epsilon) * mass(up, 0)]
        if mpmath.exp(-epsilon) > 1 - q:  # the other direction cannot lose more than -log(1 - q)
            down = s**2 * mpmath.log((mpmath.exp(-epsilon) - 1 + q) / q) + 0.5
            deltas.append(1 - mass(down, 0) - mpmath.exp(epsilon) * (1 - mass(down, q)))
        return max(deltas)

    assert exact(epsilon) <= delta < exact(epsilon - 1e-3)  # the step of the grid at this noise


def test_the_weakest_noise_counts():
    def multiplier(**settings):
        return guaranteed(**settings).noise_multiplier()

    kernel, names = "0.weight", [name for name, _ in guaranteed().model.named_parameters()]
    assert multiplier(std=0.5, floor_std=0.2) == 0.1  # both by the clipping norm of 2
    assert multiplier(std=0.2, floor_std=0.5) == 0.1
    assert multiplier(std={kernel: 0.2}, floor_std={name: 0.1 * (1 + i) for i, name in enumerate(names)}) == 0.05
    # half of the signal under the same noise, and what rounding adds to it
    assert multiplier(std=0.2, floor_std=0.5, keep=0.5) == pytest.approx(0.2, rel=1e-4)
    assert multiplier(std=0.2, floor_std=0.5, keep=0.5) < 0.2
    assert multiplier(std=0.2, floor_std=0.5, keep=0.0) == 0.25  # none but what rounding leaves
    left = 3 * (2 * 9 + 8) * 2.0**-24  # of a kernel of 9 taps: sqrt(K) (2 K + 8) roundings
    assert multiplier(std=1e-6, floor_std=0.5, keep=0.0) == pytest.approx(1e-6 / left / 2, rel=1e-12)
    assert multiplier(std=0.2, floor_std=0.5, keep=0.5) == pytest.approx(0.2 / (0.5 + left) / 2, rel=1e-12)
    assert multiplier(std=0.2, floor_std=0.5, ratio=0.0) == 0.25  # nowhere
    assert multiplier(std=0.0, floor_std=0.5, masks={(3, 3): torch.zeros(3, 2, dtype=torch.bool)}) == 0.25


def test_every_direction_of_a_message_has_the_floor():
    """The covariance of what is sent of a whole model, against the one that the bases give.

    Its least eigenvalue is the lesser of std and floor_std, squared. The eigenvalues of the covariance of n normal
    vectors of dimension D, whitened, lie within (1 +- (sqrt(D / n) + t))^2 but for a probability of 2 exp(-n t^2 / 2)
    (Davidson & Szarek 2001, theorem II.13); t is chosen for 1e-9.
    """
    std, floor_std, calls = 0.5, 0.2, 2000
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3, 2))
    settings = {"ratio": 0.5, "cutoff": 0.75, "std": std, "floor_std": floor_std}
    defense = TIP(model, **settings, scores="public", rng=NoiseRNG.from_seed(1))
    defense.measure(torch.randn(2, 1, 3, 3), torch.tensor([0, 1]))
    sent = []
    for _ in range(calls):
        update = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        defense.perturb_update(update)
        sent.append(torch.cat([tensor.flatten() for tensor in update.values()]))
    sent = torch.stack(sent).double()

    basis, high = spectrum.real_basis((3, 3), spectrum.radial_mask((3, 3), 0.75))
    amounts = torch.tensor([std**2] * high + [floor_std**2] * (9 - high), dtype=torch.float64)
    selected = defense.selected()["0.weight"]
    assert selected.sum() == 2
    eye = torch.eye(9, dtype=torch.float64)
    kernels = [basis @ amounts.diag() @ basis.T if chosen else floor_std**2 * eye for chosen in selected]
    others = floor_std**2 * torch.eye(3 + 6 + 2, dtype=torch.float64)
    covariance = torch.block_diag(*kernels, others)
    assert torch.linalg.eigvalsh(covariance).min().item() == pytest.approx(floor_std**2, rel=1e-12)  # float64 rounding

    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), sent.T, upper=False)
    eigenvalues = torch.linalg.eigvalsh(whitened @ whitened.T / calls)
    margin = (len(covariance) / calls) ** 0.5 + (2 * math.log(2e9) / calls) ** 0.5
    assert (1 - margin) ** 2 < eigenvalues.min()
    assert eigenvalues.max() < (1 + margin) ** 2
    assert torch.linalg.eigvalsh(sent.T @ sent / calls).min() > (1 - margin) ** 2 * floor_std**2


UNACCOUNTABLE = [
    ({"scores": "private"}, "expected scores='public', got 'private'"),
    ({"max_grad_norm": None}, "expected max_grad_norm to be a number, got None"),
    ({"floor_std": 0.0}, r"floor_std above 0 for all that is sent, got 0 \(0.weight\)"),
    ({"std": 0.0}, r"std above 0 for every high band, got 0 \(0.weight\)"),
]


@pytest.mark.parametrize(("settings", "message"), UNACCOUNTABLE)
def test_no_epsilon_without_a_guarantee(settings, message):
    with pytest.raises(ValueError, match=message):
        calibration.accounted_epsilon(guaranteed(**settings), rounds=1, delta=1e-5)


@pytest.mark.parametrize("bare", ["1.running_mean", "3.bias"])
def test_no_epsilon_when_one_tensor_has_no_floor(bare):
    model = guaranteed().model
    floor_std = {name: 1.0 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    assert calibration.accounted_epsilon(guaranteed(floor_std=floor_std), rounds=1, delta=1e-5) > 0
    with pytest.raises(ValueError, match=rf"floor_std above 0 for all that is sent, got 0 \({bare}\)"):
        calibration.accounted_epsilon(guaranteed(floor_std={**floor_std, bare: 0.0}), rounds=1, delta=1e-5)


def test_accounting_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'tip_kernels\[accounting\]'"):
        calibration.accounted_epsilon(guaranteed(), rounds=1, delta=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds to be a positive integer, got 0"),
        ({"rounds": 2.5}, "rounds to be a positive integer, got 2.5"),
        ({"delta": 1.0}, r"delta in \(0, 1\), got 1.0"),
        ({"sampling_probability": 0.0}, r"sampling_probability in \(0, 1\], got 0.0"),
        ({"sampling_probability": 1.5}, r"sampling_probability in \(0, 1\], got 1.5"),
        ({"relation": "swap"}, "relation to be one of add_or_remove, replace, got 'swap'"),
    ],
)
def test_bad_accounting(change, message):
    with pytest.raises(ValueError, match=message):
        calibration.accounted_epsilon(guaranteed(), **{"rounds": 1, "delta": 1e-5, **change})


BAD = [
    (calibration.analytic_gaussian_std, (0.0, 1e-5), "epsilon to be positive and finite, got 0.0"),
    (calibration.analytic_gaussian_std, (math.inf, 1e-5), "epsilon to be positive and finite, got inf"),
    (calibration.analytic_gaussian_std, (1.0, 0.0), r"delta in \(0, 1\), got 0.0"),
    (calibration.analytic_gaussian_std, (1.0, math.nan), r"delta in \(0, 1\), got nan"),
    (calibration.classical_gaussian_std, (1.0, 1e-5, -1.0), "sensitivity to be positive and finite, got -1.0"),
    (calibration.classical_gaussian_std, (1.0, 1.0), r"delta in \(0, 1\), got 1.0"),
    (calibration.local_update_sensitivity, (0, 0.1, 1.0, 1), "steps to be positive and finite, got 0"),
    (calibration.local_update_sensitivity, (1, math.nan, 1.0, 1), "lr to be positive and finite, got nan"),
    (calibration.spectrum_std, (-1.0, 9), "beta to be finite and at least 0, got -1.0"),
    (calibration.spectrum_std, (1.0, 0), "taps to be positive and finite, got 0"),
    (calibration.relative_std, ([torch.ones(1)], -0.1), "fraction to be finite and at least 0, got -0.1"),
    (calibration.relative_std, ([], 0.1), "at least one gradient, got none"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), BAD)
def test_bad_arguments(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize("relation", ["add_or_remove", "replace"])
@pytest.mark.parametrize(("epsilon", "rounds"), [(0.5, 1), (8.0, 100), (100.0, 3)])
def test_noise_for_a_target_is_the_gaussian_mechanisms(epsilon, rounds, relation):
    """Never less than the exact noise, and more by no more than the accountant's grid and the bisection ask for."""
    multiplier = calibration.noise_multiplier_for(epsilon, 1e-5, rounds=rounds, relation=relation)
    distance = 2 if relation == "replace" else 1
    exact = distance * math.sqrt(rounds) * calibration.analytic_gaussian_std(epsilon, 1e-5)
    assert exact <= multiplier <= exact * 1.01
    options = {"rounds": rounds, "delta": 1e-5, "relation": relation}
    assert calibration.accounted_epsilon(guaranteed(multiplier), **options) <= epsilon
    assert calibration.accounted_epsilon(guaranteed(multiplier * (1 - 2e-4)), **options) > epsilon


def test_noise_for_a_target_under_sampling():
    options = {"rounds": 10, "sampling_probability": 0.1}
    multiplier = calibration.noise_multiplier_for(2.0, 1e-5, **options)
    assert calibration.accounted_epsilon(guaranteed(multiplier), delta=1e-5, **options) <= 2.0
    assert calibration.accounted_epsilon(guaranteed(multiplier * (1 - 2e-4)), delta=1e-5, **options) > 2.0
    with pytest.raises(ValueError, match=r"expected a target that asks for noise, got epsilon 2.0 and delta 0.5"):
        calibration.noise_multiplier_for(2.0, 0.5, **options | {"rounds": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon to be positive and finite, got 0.0"),
        ({"delta": 0.0}, r"delta in \(0, 1\), got 0.0"),
        ({"rounds": 0}, "rounds to be a positive integer, got 0"),
        ({"relation": "swap"}, "relation to be one of add_or_remove, replace, got 'swap'"),
    ],
)
def test_bad_noise_targets(change, message):
    with pytest.raises(ValueError, match=message):
        calibration.noise_multiplier_for(**{"epsilon": 1.0, "delta": 1e-5, "rounds": 1, **change})
