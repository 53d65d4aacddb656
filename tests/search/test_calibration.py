"""Scores fitted to trained networks: beside each model's posterior one by one, and exact under limits."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pynas import spaces, tabular
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.search import best, calibrate, choose_networks, gaussian_process
from pynas.search.calibration import Terms, fit
from pynas.search.design import d_optimal
from pynas.search.features import Features
from pynas.spaces import Space

SPACE = Space.from_counts("small", [[(3, 2), (4,)], [(4, 3)]])


def made(seed: int = 0) -> tuple[Scores, Costs]:
    """Random scores and costs, and widths that add up over the layers."""
    rng = np.random.default_rng(seed)
    scores = Scores(SPACE, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in SPACE.blocks])
    params = [[rng.integers(1, 99, cell.counts) for cell in cells] for cells in SPACE.blocks]
    layer = {n: np.log(8.0 * np.arange(1, n + 1)) for n in (2, 3, 4)}
    widths = [[sum(np.ix_(*(layer[n] for n in cell.counts))) for cell in cells] for cells in SPACE.blocks]
    return scores, Costs({"params": params, "log_width": widths}, {"params": 7, "log_width": 0.0}, space=SPACE)


def networks(count: int, seed: int = 0):
    everything = list(SPACE.architectures())
    return [everything[i] for i in np.random.default_rng(seed).permutation(len(everything))[:count]]


def posterior(rows, totals, target):
    """The docstring of `calibrate`, model by model, with priors and intercept in one regression."""
    n, weights, beliefs = len(target), [], []
    centre = np.eye(n) - 1 / n
    for model in itertools.product(*[(0, 3)] * totals, (0, 0.03, 0.3, 3, 30)):
        variance = np.array([*model[:-1], *[model[-1]] * (rows.shape[1] - totals)])
        used = variance > 0
        x, y = centre @ rows[:, used], centre @ target
        mean = np.linalg.solve(x.T @ x + np.diag(1 / variance[used]), x.T @ y) if used.any() else np.zeros(0)
        whole = np.zeros(rows.shape[1])
        whole[used] = mean
        squares = y @ (y - x @ mean)
        log_det = np.linalg.slogdet(np.eye(used.sum()) + x.T @ x * variance[used])[1] if used.any() else 0.0
        belief = -log_det / 2 - (n - 1) / 2 * np.log(squares)
        beliefs.append(belief - 20 * (whole[:totals] < 0).any())
        weights.append(whole)
    beliefs = np.exp(np.array(beliefs) - max(beliefs))
    return beliefs @ np.array(weights) / beliefs.sum()


def test_the_fit_is_the_average_of_all_models():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((11, 7))
    target = rows @ rng.standard_normal(7) + 0.3 * rng.standard_normal(11) + 90
    np.testing.assert_allclose(fit(rows, 3, target), posterior(rows, 3, target), rtol=1e-8)
    # The scale of the accuracies and their mean do not matter.
    np.testing.assert_allclose(fit(rows, 3, 100 * target - 4), 100 * fit(rows, 3, target), rtol=1e-8)


def test_calibrated_scores_are_minus_the_prediction_and_are_searched_exactly():
    scores, table = made()
    trained = networks(12)
    accuracy = 80 - 2 * scores.total(trained) + np.random.default_rng(1).standard_normal(12)
    found = calibrate(scores, table, trained, accuracy)
    everything = list(SPACE.architectures())
    rows, terms = Terms.of_scores(scores, table).of(everything), len(Terms.of_scores(scores, table).totals)
    own = Terms.of_scores(scores, table).of(trained)
    weights = fit(own, terms, accuracy)
    predicted = rows @ weights + (accuracy - own @ weights).mean()
    np.testing.assert_allclose(found.scores.total(everything), -predicted, atol=1e-9)
    params = np.array([table.of(net)["params"] for net in everything])
    limit = float(np.median(params))
    top = best(found.scores, table, {"params": limit}, top_k=4)
    expected = np.sort(-predicted[params <= limit])[:4]
    np.testing.assert_allclose([entry.score for entry in top], expected, atol=1e-9)
    assert set(found.weights) == {"score", "params", "log_width", "log_width 1.1", "log_width 1.2", "log_width 2.1",
                                  "log_width 2.2"}  # fmt: skip


def test_predictions_of_networks_left_out_do_not_see_them():
    scores, table = made()
    trained, rng = networks(10), np.random.default_rng(0)
    accuracy = rng.random(10)
    left_out = calibrate(scores, table, trained, accuracy).left_out
    # Noise: what is left out is not predicted, though the fit itself follows it.
    assert abs(stats.kendalltau(left_out, accuracy).statistic) < 0.7
    signal = -scores.total(trained)
    assert stats.kendalltau(calibrate(scores, table, trained, signal).left_out, signal).statistic > 0.8


def test_layers_are_found_from_the_paths():
    scores, table = made()
    features = Features.of_scores(scores, table)
    nets = list(SPACE.architectures())
    rows = features.of(nets)
    # Layer 2 of block 2 has three widths; a linear function of their logarithms.
    column = rows[:, features.names.index("log_width 2.2")]
    widths = np.log(8.0 * np.array([net[1].path[1] + 1 for net in nets]))
    assert np.corrcoef(column, widths)[0, 1] == pytest.approx(1)
    assert features.weighted(np.arange(4.0)).total(nets) == pytest.approx(rows @ np.arange(4.0))


def test_a_gaussian_process_learns_what_is_no_sum():
    scores, table = made()
    nets = list(SPACE.architectures())
    rows = Terms.of_scores(scores, table).of(nets)
    truth = rows[:, 0] + 3 * rows[:, 3] * rows[:, 4]
    order = np.random.default_rng(0).permutation(len(nets))
    trained, rest = order[:60], order[60:]
    linear = calibrate(scores, table, [nets[i] for i in trained], truth[trained])
    predicted, deviation = gaussian_process(
        scores, table, [nets[i] for i in trained], truth[trained], [nets[i] for i in rest]
    )
    assert (deviation > 0).all()
    by_sum = np.corrcoef(-linear.scores.total([nets[i] for i in rest]), truth[rest])[0, 1]
    assert np.corrcoef(predicted, truth[rest])[0, 1] > by_sum + 0.05


def test_no_exchange_improves_a_design():
    rows = np.random.default_rng(0).standard_normal((12, 3))

    def value(chosen):
        return np.linalg.slogdet(np.eye(3) + rows[list(chosen)].T @ rows[list(chosen)])[1]

    chosen = d_optimal(rows, 4)
    assert len(set(chosen)) == 4
    for out, new in itertools.product(chosen, set(range(12)) - set(chosen)):
        assert value({*chosen} - {out} | {new}) <= value(chosen) + 1e-9
    values = [value(some) for some in itertools.combinations(range(12), 4)]
    assert value(chosen) >= np.quantile(values, 0.99)


@pytest.mark.parametrize("choose", ["random", "d-optimal"])
def test_networks_are_chosen_within_limits_among_the_rated(choose):
    scores, table = made()
    scores[0][0].scores[0] = np.nan
    params = [table.of(net)["params"] for net in SPACE.architectures()]
    limits = {"params": float(np.quantile(params, 0.2))}
    chosen = choose_networks(scores, table, 8, choose=choose, limits=limits, seed=3)
    assert len(set(chosen)) == 8 and not np.isnan(scores.total(chosen)).any()
    assert max(table.of(net)["params"] for net in chosen) <= limits["params"]
    assert chosen == choose_networks(scores, table, 8, choose=choose, limits=limits, seed=3)
    among = networks(20)
    among = [net for net in among if not np.isnan(scores.of(net))]
    assert set(choose_networks(scores, table, 5, choose=choose, among=among)) <= set(among)
    with pytest.raises(InputError, match="expected 999 networks within the limits"):
        choose_networks(scores, table, 999, choose=choose)


def test_twenty_networks_of_nats_size_beat_the_rating():
    # The published rating has tau 0.534, the sum of log widths 0.813.
    space = spaces.get("nats-size")
    widths = np.log(np.arange(8.0, 65, 8))
    tables = [[sum(np.ix_(*[widths] * len(cell.counts))) for cell in cells] for cells in space.blocks]
    table = Costs({"log_width": tables}, {"log_width": 0.0}, space=space)
    published = tabular.load_path_scores("nats-size")
    scores = Scores(space, [[only] * len(cells) for (only,), cells in zip(published, space.blocks)])
    bench = tabular.load("nats-size")
    chosen = choose_networks(scores, table, 20, seed=0)
    accuracy = [float(bench.accuracy[bench.index(network, space)]) for network in chosen]
    fitted = calibrate(scores, table, chosen, accuracy)
    rows = np.arange(0, len(bench), 17)
    rest = [space.parse(bench.architectures[row]) for row in rows]
    assert stats.kendalltau(-fitted.scores.total(rest), bench.accuracy[rows]).statistic > 0.79


def test_refusals():
    scores, table = made()
    nets = networks(6)
    for some, accuracies, text in (
        (nets[:4], [1, 2, 3, 4], "at least 5 networks"),
        (nets, [1, 2, 3, 4, 5], "6 networks and 5 accuracies"),
        (nets, [1, 2, 3, 4, 5, np.nan], "5 of them finite"),
        (nets, [7] * 6, "accuracies that differ, got 7 for each of 6"),
        ([*nets[:5], nets[0]], range(6), "each network once"),
    ):
        with pytest.raises(InputError, match=text):
            calibrate(scores, table, some, accuracies)
    scores[1][0].scores[nets[0][1].path] = np.nan
    with pytest.raises(InputError, match="has no score"):
        calibrate(scores, table, nets, range(6))
    with pytest.raises(InputError, match="random"):
        choose_networks(scores, table, 5, choose="best")
