import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rewards import objectives as o
from workers.rewards.config import REGIONS
from workers.rewards.models.predict import expected_rating, rating_spread
from workers.rewards.scale import LEVEL_INDEX, UNKNOWN, Partition

BAD, NORMAL, GOOD = (LEVEL_INDEX[name] for name in ("bad", "normal", "good"))
UNIFORM = torch.full((1, 9), 1 / 9, dtype=torch.float64).log()
SCALE = Partition()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def win_loss(region: str, level_a: int, level_b: int, strength: int = 1) -> float:
    mask = o.region_mask(SCALE, region, level_a, level_b, strength)
    return -o.log_mass(UNIFORM, UNIFORM, mask).item()


# --- Exact values at uniform p ---


@pytest.mark.parametrize(
    ("region", "level_a", "level_b", "expected"),
    [
        ("none", UNKNOWN, UNKNOWN, 0.8109),
        ("none", GOOD, BAD, 0.8109),
        ("flood", GOOD, GOOD, 3.2958),
        ("intersect", GOOD, GOOD, 3.2958),
        ("flood", GOOD, NORMAL, 1.6864),
        ("intersect", GOOD, NORMAL, 2.1972),
        ("flood", GOOD, BAD, 0.8109),
        ("intersect", GOOD, BAD, 2.1972),
        ("rectangle", GOOD, GOOD, 2.1972),
        ("flood", UNKNOWN, UNKNOWN, 0.8109),
        ("intersect", UNKNOWN, UNKNOWN, 0.8109),
        ("rectangle", UNKNOWN, UNKNOWN, 0.8109),
        ("intersect", GOOD, UNKNOWN, -math.log(21 / 81)),
        ("flood", NORMAL, UNKNOWN, -math.log(15 / 81)),
    ],
)
def test_region_loss_at_uniform_ratings(region: str, level_a: int, level_b: int, expected: float) -> None:
    assert win_loss(region, level_a, level_b) == pytest.approx(expected, abs=5e-5)


def test_roughness_is_zero_for_a_geometric_distribution_and_large_for_a_comb() -> None:
    k = torch.arange(1.0, 10.0, dtype=torch.float64)
    geometric, hill = torch.stack([0.3 * k, -0.7 * k]), -0.5 * (k - 4) ** 2
    comb = torch.tensor([3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0], dtype=torch.float64).log()
    log_p = o.log_ratings(torch.stack([*geometric, hill, comb]))
    # second differences: 0; -1 at seven places; 2 log 3 at seven places
    expected = torch.tensor([0.0, 0.0, 7.0, 7 * (2 * math.log(3)) ** 2], dtype=torch.float64)
    torch.testing.assert_close(o.roughness(log_p), expected)
    assert torch.autograd.gradcheck(lambda x: o.roughness(o.log_ratings(x)), draw(2, 9).requires_grad_())


def test_strength_asks_for_a_gap_and_never_empties_a_region() -> None:
    assert win_loss("none", UNKNOWN, UNKNOWN, 2) == pytest.approx(-math.log(28 / 81))
    assert win_loss("none", UNKNOWN, UNKNOWN, 3) == pytest.approx(-math.log(21 / 81))
    assert o.region_mask(SCALE, "intersect", GOOD, GOOD, 3).nonzero().tolist() == [[8, 6]]
    assert o.region_table(Partition(1, 2), "intersect").flatten(3).any(-1).all()


def test_a_level_of_one_rating_says_nothing_about_order_inside_it() -> None:
    narrow = Partition(1, 2)
    assert torch.equal(
        o.region_mask(narrow, "intersect", BAD, BAD), o.region_mask(narrow, "none", UNKNOWN, UNKNOWN)
    )


# --- Gradients and identities ---


def test_gradient_of_w_is_the_other_sides_tail_mass() -> None:
    p_a = draw(1, 9).softmax(1).requires_grad_()
    p_b = draw(1, 9, seed=1).softmax(1).requires_grad_()
    mask = o.region_mask(SCALE, "none", UNKNOWN, UNKNOWN)
    o.log_mass(p_a.log(), p_b.log(), mask).exp().sum().backward()
    assert p_a.grad is not None
    assert p_b.grad is not None
    below = torch.cumsum(p_b.detach(), 1) - p_b.detach()  # P(s_b < k)
    above = 1 - torch.cumsum(p_a.detach(), 1)  # P(s_a > k)
    torch.testing.assert_close(p_a.grad, below)
    torch.testing.assert_close(p_b.grad, above)


def test_gradients_at_uniform_ratings() -> None:
    """dW/dp_a(k) = P(s_b < k) = (k - 1)/9 and dW/dp_b(k) = (9 - k)/9; a tie pulls all ratings alike."""
    p_a, p_b = (torch.full((1, 9), 1 / 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    none = o.region_mask(SCALE, "none", UNKNOWN, UNKNOWN)
    w, t = (
        o.log_mass(p_a.log(), p_b.log(), mask).exp().sum() for mask in (none, torch.eye(9, dtype=torch.bool))
    )
    ninths = torch.arange(9, dtype=torch.float64) / 9
    of_a, of_b = torch.autograd.grad(w, (p_a, p_b))
    torch.testing.assert_close(of_a[0], ninths)
    torch.testing.assert_close(of_b[0], ninths.flip(0))
    torch.testing.assert_close(
        torch.autograd.grad(t, p_a)[0][0], torch.full((9,), 1 / 9, dtype=torch.float64)
    )


PARTITIONS = st.tuples(st.integers(1, 7), st.integers(2, 8)).filter(lambda cuts: cuts[0] < cuts[1])


@settings(max_examples=60, deadline=None)
@given(PARTITIONS, st.sampled_from(REGIONS), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
def test_regions_are_their_written_inequalities_under_any_partition(
    cuts: tuple[int, int], region: str, level_a: int, level_b: int, strength: int
) -> None:
    """docs/methods.md, cell by cell; levels that leave no cell say nothing, and strength keeps the widest gap left."""
    scale = Partition(*cuts)
    (low_a, high_a), (low_b, high_b) = scale.bounds(level_a), scale.bounds(level_b)
    written = {
        "none": lambda i, j: j < i,
        "flood": lambda i, j: low_b <= j < i <= high_a,
        "intersect": lambda i, j: j < i and low_a <= i <= high_a and low_b <= j <= high_b,
        "rectangle": lambda i, j: low_a <= i <= high_a and low_b <= j <= high_b,
    }
    if level_a == level_b == UNKNOWN:
        region = "none"
    every = [(i, j) for i in range(1, 10) for j in range(1, 10)]
    cells = [cell for cell in every if written[region](*cell)] or [
        cell for cell in every if cell[1] < cell[0]
    ]
    if strength > 1:
        gap = min(strength, max(i - j for i, j in cells))
        cells = [(i, j) for i, j in cells if i - j >= gap]
    mask = o.region_mask(scale, region, level_a, level_b, strength)
    assert [(i + 1, j + 1) for i, j in mask.nonzero().tolist()] == cells
    assert torch.equal(o.region_table(scale, region)[level_a, level_b, strength - 1], mask)
    uniform = -o.log_mass(UNIFORM, UNIFORM, mask).item()
    assert uniform == pytest.approx(-math.log(len(cells) / 81))


@settings(max_examples=40, deadline=None)
@given(PARTITIONS, st.lists(st.floats(-10, 10), min_size=18, max_size=18))
def test_intersect_costs_at_least_flood_and_flood_at_least_nothing(
    cuts: tuple[int, int], logits: list[float]
) -> None:
    pair = torch.tensor(logits, dtype=torch.float64).reshape(2, 1, 9)
    log_a, log_b = o.log_ratings(pair[0]), o.log_ratings(pair[1])
    for level_a in range(4):
        for level_b in range(level_a + 1):
            none, flood, intersect = (
                -o.log_mass(log_a, log_b, o.region_mask(Partition(*cuts), region, level_a, level_b)).item()
                for region in ("none", "flood", "intersect")
            )
            narrow = not o.region_mask(Partition(*cuts), "rectangle", level_a, level_b).tril(-1).any()
            assert narrow or none - 1e-9 <= flood <= intersect + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=18, max_size=18))
def test_w_t_and_w_reversed_add_up_to_one(logits: list[float]) -> None:
    pair = torch.tensor(logits, dtype=torch.float64).reshape(2, 1, 9)
    below = o.region_mask(SCALE, "none", UNKNOWN, UNKNOWN)
    masks = (below, torch.eye(9, dtype=torch.bool), below.T)
    log_a, log_b = o.log_ratings(pair[0]), o.log_ratings(pair[1])
    w, t, reversed_w = (o.log_mass(log_a, log_b, mask).exp().item() for mask in masks)
    assert w + t + reversed_w == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.floats(-40, 40), st.floats(1e-3, 20))
def test_rao_kupper_is_a_distribution(difference: float, tie: float) -> None:
    parts = o.rao_kupper(
        torch.tensor(difference, dtype=torch.float64), torch.tensor(tie, dtype=torch.float64)
    )
    assert torch.stack(parts).exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_bt_outcomes_with_both_bad_are_one_distribution() -> None:
    a, b = torch.tensor([0.3]), torch.tensor([-0.8])
    total = torch.zeros(1)
    for first, second, outcome in ((a, b, o.WIN), (b, a, o.WIN), (a, b, o.TIE), (a, b, o.BOTH_BAD)):
        verdict, tie, threshold = torch.tensor([outcome]), torch.tensor(0.4), torch.tensor(-0.2)
        total += (-o.bt_terms(first, second, verdict, tie=tie, bad_threshold=threshold)).exp()
    assert total.item() == pytest.approx(1.0, abs=1e-6)


def test_plain_bt_is_logsigmoid_with_margin_and_centring() -> None:
    a, b = torch.tensor([1.0]), torch.tensor([0.25])
    terms = o.bt_terms(a, b, torch.tensor([o.WIN]), margin=torch.tensor([0.5]), centring=0.01)
    expected = -math.log(1 / (1 + math.exp(-0.25))) + 0.01 * 1.25**2
    assert terms.item() == pytest.approx(expected, abs=1e-6)


def test_two_cut_points_make_three_levels_of_a_reward() -> None:
    score, cuts = (
        torch.tensor([0.0, 2.0], dtype=torch.float64),
        torch.tensor([-1.0, 1.0], dtype=torch.float64),
    )
    bad, good = 1 / (1 + math.e), 1 / (1 + math.e)  # sigmoid(-1) at both ends of a reward of 0
    first, second = o.log_levels(score, cuts).exp().tolist()
    assert first == pytest.approx([bad, 1 - bad - good, good])
    assert second == pytest.approx(
        [1 / (1 + math.e**3), 1 / (1 + math.e) - 1 / (1 + math.e**3), 1 / (1 + 1 / math.e)]
    )


def strengths(d: float, steps: list[float], **options: Any) -> list[float]:
    """P of b's wins by strength 3, 2, 1, of the tie, and of a's wins by 1, 2, 3, at r_a - r_b = d."""
    every = [(-d, 3), (-d, 2), (-d, 1), (d, 0), (d, 1), (d, 2), (d, 3)]
    first = torch.tensor([difference for difference, _ in every], dtype=torch.float64)
    said = torch.tensor([strength for _, strength in every])
    outcome = torch.tensor([o.WIN] * 3 + [o.TIE] + [o.WIN] * 3)
    options |= {"steps": torch.tensor(steps, dtype=torch.float64), "strength": said}
    return (-o.bt_terms(first, torch.zeros_like(first), outcome, **options)).exp().tolist()


@settings(max_examples=40, deadline=None)
@given(st.floats(-30, 30), st.floats(1e-3, 5), st.floats(1e-3, 5), st.floats(1e-3, 5))
def test_strengths_ties_and_strengths_are_one_distribution(
    d: float, tie: float, one: float, more: float
) -> None:
    eta = torch.tensor(tie, dtype=torch.float64)
    assert sum(strengths(d, [one, one + more], tie=eta)) == pytest.approx(1.0, abs=1e-9)


def test_strengths_are_cumulative_on_the_difference() -> None:
    def above(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    eta = torch.tensor(0.2, dtype=torch.float64)
    found = strengths(0.5, [0.7, 1.5], tie=eta)
    assert found[4:] == pytest.approx(
        [above(0.3) - above(-0.4), above(-0.4) - above(-1.2), above(-1.2)]  # thresholds .2, .9, 1.7
    )
    # a strength that nobody said is the order alone
    told = {"strength": torch.tensor([0]), "steps": torch.tensor([0.7, 1.5])}
    plain = o.bt_terms(torch.tensor([0.5]), torch.zeros(1), torch.tensor([o.WIN]), tie=eta, **told)
    assert plain.item() == pytest.approx(-math.log(above(0.3)), abs=1e-6)


def test_bt_refuses_outcomes_it_has_no_threshold_for() -> None:
    for outcome in (o.TIE, o.BOTH_BAD):
        with pytest.raises(ValueError, match="threshold"):
            o.bt_terms(torch.zeros(1), torch.zeros(1), torch.tensor([outcome]))


@pytest.mark.parametrize("difference", [-2.5, -0.4, 0.0, 0.7, 3.0])
def test_bt_is_oprm_with_gumbel_scores_in_the_limit(difference: float) -> None:
    """Ratings that are fine cuts of Gumbel-distributed qualities: W tends to sigmoid(mu_a - mu_b), its gradient too.

    The error is half of T, the chance of the same cut, which shrinks with the cut.
    """
    errors = []
    for cuts in (100, 400, 1600):
        grid = torch.linspace(-12, 24, cuts, dtype=torch.float64)
        mu = torch.tensor([difference + 0.4, 0.4], dtype=torch.float64, requires_grad=True)
        log_a, log_b = ((-(grid - m) - torch.exp(-(grid - m))).log_softmax(0).unsqueeze(0) for m in mu)
        ranks = torch.arange(cuts)
        above, equal = ranks.unsqueeze(1) > ranks, ranks.unsqueeze(1) == ranks
        loss = -o.log_mass(log_a, log_b, above)
        loss.backward()
        bt = o.bt_terms(mu[:1].detach(), mu[1:].detach(), torch.tensor([o.WIN]))
        error = (loss - bt).item()
        tie = o.log_mass(log_a, log_b, equal).exp().item()
        assert math.exp(-bt.item()) - math.exp(-loss.item()) == pytest.approx(tie / 2, rel=0.1)
        errors.append(abs(error))
        slope = 1 / (1 + math.exp(difference))
        assert mu.grad.tolist() == pytest.approx([-slope, slope], abs=2 * tie)
    assert errors[2] < errors[1] / 3 < errors[0] / 9
    assert errors[2] < 0.02


def test_ties_and_both_bad_of_oprm() -> None:
    nothing = torch.zeros(1, 9, 9, dtype=torch.bool)
    nothing[0, 1, 0] = True
    bad = SCALE.masks()[BAD]
    tie = o.oprm_terms(UNIFORM, UNIFORM, torch.tensor([o.TIE]), nothing, bad)
    both = o.oprm_terms(UNIFORM, UNIFORM, torch.tensor([o.BOTH_BAD]), nothing, bad)
    assert tie.item() == pytest.approx(math.log(9))
    assert both.item() == pytest.approx(2 * math.log(3))


@given(st.lists(st.floats(-8, 8), min_size=18, max_size=18))
def test_outcomes_of_oprm_with_both_bad_are_one_distribution(logits: list[float]) -> None:
    log_a, log_b = o.log_ratings(torch.tensor(logits, dtype=torch.float64).reshape(2, 1, 9))
    below, bad = o.region_mask(SCALE, "none", UNKNOWN, UNKNOWN)[None], SCALE.masks()[BAD]
    total = (-o.oprm_terms(log_a, log_b, torch.tensor([o.BOTH_BAD]), below, bad)).exp()
    for mask, outcome in ((below, o.WIN), (below, o.TIE), (below.mT, o.WIN)):
        log_p = -o.oprm_terms(log_a, log_b, torch.tensor([outcome]), mask, bad)
        total = total + (log_p + o.log_not_both_bad(log_a, log_b, bad)).exp()
    assert total.item() == pytest.approx(1.0, abs=1e-6)
    assert o.log_not_both_bad(UNIFORM, UNIFORM, bad).item() == pytest.approx(math.log(8 / 9))


def test_a_level_alone_is_its_mass() -> None:
    masks = SCALE.masks()[[GOOD, UNKNOWN]]
    terms = o.level_terms(UNIFORM.expand(2, 9), masks)
    torch.testing.assert_close(terms, torch.tensor([math.log(3), 0.0], dtype=torch.float64))


def test_a_split_vote_trains_a_soft_preference() -> None:
    """3:2 among five people: the loss is least where P(a) = 3/5."""
    difference = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    optimizer = torch.optim.LBFGS([difference], max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        win = torch.tensor([o.WIN])
        value = (3 * o.bt_terms(difference, zero, win) + 2 * o.bt_terms(zero, difference, win)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert torch.sigmoid(difference).item() == pytest.approx(0.6, abs=1e-4)


def test_clf_targets_and_bound() -> None:
    a, b = torch.tensor([2.0]), torch.tensor([-1.0])
    win = o.clf_terms(a, b, torch.tensor([o.WIN])).item()
    assert win == pytest.approx(math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)), abs=1e-6)
    zero = torch.zeros(1)
    assert o.clf_terms(zero, zero, torch.tensor([o.TIE])).item() == pytest.approx(2 * math.log(2), abs=1e-6)
    low = torch.tensor([-9.0])
    assert o.clf_terms(low, low, torch.tensor([o.BOTH_BAD])).item() < 0.001


def test_dpo_terms() -> None:
    h, beta = 2.0, 0.1
    pi_a, pi_b, ref_a, ref_b = (torch.tensor([value]) for value in (-3.0, -6.0, -4.0, -5.0))
    term = o.dpo_terms(pi_a, pi_b, ref_a, ref_b, beta=beta).item()
    assert term == pytest.approx(math.log1p(math.exp(-beta * h)), abs=1e-6)


# --- Finite differences in float64 ---


def everything() -> dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]]:
    scalars = (draw(4), draw(4, seed=1))
    ratings = (draw(4, 9), draw(4, 9, seed=1))
    outcome = torch.tensor([o.WIN, o.TIE, o.BOTH_BAD, o.WIN])
    mask = o.region_table(SCALE, "intersect")[[2, 3, 3, 1], [0, 3, 3, 1], [1, 0, 0, 0]]
    bad = SCALE.masks()[BAD]
    margin = torch.tensor([0.0, 0.0, 0.0, 0.5], dtype=torch.float64)
    thresholds = (torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64))

    def bt(a: torch.Tensor, b: torch.Tensor, tie: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        return o.bt_terms(a, b, outcome, margin=margin, tie=tie, bad_threshold=threshold, centring=0.01)

    def oprm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return o.oprm_terms(o.log_ratings(a), o.log_ratings(b), outcome, mask, bad)

    def level(a: torch.Tensor) -> torch.Tensor:
        return o.level_terms(o.log_ratings(a), SCALE.masks())

    def bt_with(**options: Any) -> Callable[..., torch.Tensor]:
        wins = torch.zeros(4, dtype=torch.int64)
        return lambda a, b: o.bt_terms(a, b, wins, **options)

    def rgft(region: str) -> Callable[..., torch.Tensor]:
        """Every pair of levels (known, one-sided, unlabelled) at every strength: 48 terms of one pair of scores."""
        masks = o.region_table(SCALE, region).reshape(-1, 9, 9)
        wins = torch.zeros(len(masks), dtype=torch.int64)

        def terms(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            log_a, log_b = o.log_ratings(a).expand(48, 9), o.log_ratings(b).expand(48, 9)
            return o.oprm_terms(log_a, log_b, wins, masks, bad)

        return terms

    def none(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        below = o.region_mask(SCALE, "none", UNKNOWN, UNKNOWN)
        return o.oprm_terms(o.log_ratings(a), o.log_ratings(b), outcome, below, bad)

    def reliable(terms: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """-log P(v | u) itself; that training's weights give its gradient is tested in test_reliability.py."""
        error, base = torch.linspace(0.05, 0.9, 4).double(), torch.linspace(0.1, 0.6, 4).double()
        return lambda *inputs: -torch.log((1 - error) * torch.exp(-terms(*inputs)) + error * base)

    def dpo(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return o.dpo_terms(a, b, draw(4, seed=2), draw(4, seed=3), beta=0.1)

    return {
        "bt": (bt, (*scalars, *thresholds)),
        "clf": (lambda a, b: o.clf_terms(a, b, outcome), scalars),
        "bt plain": (bt_with(), scalars),
        "bt margin": (bt_with(margin=margin), scalars),
        "bt centred": (bt_with(centring=0.3), scalars),
        "bt ties": (
            lambda a, b, tie: o.bt_terms(a, b, outcome.clamp_max(o.TIE), tie=tie),
            (*scalars, thresholds[0]),
        ),
        "bt ties at a small threshold": (
            lambda a, b, tie: o.bt_terms(a, b, outcome.clamp_max(o.TIE), tie=tie),
            (*scalars, torch.tensor(0.01, dtype=torch.float64)),
        ),
        "bt reliability": (reliable(bt), (*scalars, *thresholds)),
        "oprm": (oprm, ratings),
        "oprm without regions": (none, ratings),
        "oprm reliability": (reliable(none), ratings),
        **{f"rgft {region}": (rgft(region), (draw(1, 9), draw(1, 9, seed=1))) for region in REGIONS},
        "level": (level, ratings[:1]),
        "cut points": (o.log_levels, (scalars[0], torch.tensor([-0.3, 0.9], dtype=torch.float64))),
        "bt strengths": (
            lambda a, b, steps, tie: o.bt_terms(
                a, b, outcome.clamp_max(o.TIE), strength=torch.tensor([1, 0, 3, 2]), steps=steps, tie=tie
            ),
            (*scalars, torch.tensor([0.5, 1.4], dtype=torch.float64), thresholds[0]),
        ),
        "dpo": (dpo, scalars),
    }


@pytest.mark.parametrize("name", everything())
def test_gradients_equal_finite_differences(name: str) -> None:
    function, inputs = everything()[name]
    assert torch.autograd.gradcheck(function, tuple(value.clone().requires_grad_() for value in inputs))


def test_extreme_scores_stay_finite() -> None:
    far = torch.tensor([80.0, -80.0, 80.0, -80.0], requires_grad=True)
    near = -far.detach()
    outcome = torch.tensor([o.WIN, o.WIN, o.TIE, o.BOTH_BAD])
    loss = o.bt_terms(far, near, outcome, tie=torch.tensor(1e-4), bad_threshold=torch.tensor(100.0)).sum()
    logits = torch.full((4, 9), -60.0)
    logits[:, 0] = 60.0
    logits.requires_grad_()
    log_p = o.log_ratings(logits)
    mask = o.region_table(SCALE, "none")[[3] * 4, [3] * 4, [0] * 4]
    loss = loss + o.oprm_terms(log_p, log_p, outcome, mask, SCALE.masks()[BAD]).sum()
    cuts = torch.tensor([-0.5, -0.4999], requires_grad=True)
    loss = loss - o.log_levels(far, cuts).sum()
    steps, wins = torch.tensor([1e-4, 2e-4], requires_grad=True), torch.zeros(4, dtype=torch.int64)
    loss = loss + o.bt_terms(far, near, wins, strength=torch.tensor([1, 2, 3, 1]), steps=steps).sum()
    loss.backward()
    assert torch.isfinite(loss)
    for threshold in (cuts, steps):
        assert threshold.grad is not None
        assert torch.isfinite(threshold.grad).all()
    assert far.grad is not None
    assert logits.grad is not None
    assert torch.isfinite(far.grad).all()
    assert torch.isfinite(logits.grad).all()


# --- The scale ---


def test_partition_bounds_masks_and_levels() -> None:
    wide = Partition(2, 7)
    assert [wide.bounds(level) for level in range(4)] == [(1, 2), (3, 7), (8, 9), (1, 9)]
    assert wide.masks().sum(1).tolist() == [2, 5, 2, 9]
    assert [wide.level_of(rating) for rating in (1, 2, 3, 7, 8, 9)] == [0, 0, 1, 1, 2, 2]
    for bounds in ((0, 6), (6, 6), (3, 9), (7, 3)):
        with pytest.raises(ValueError, match="partition"):
            Partition(*bounds)
    with pytest.raises(ValueError, match="rating 10"):
        wide.level_of(10)


def test_expected_rating_and_spread() -> None:
    p = torch.zeros(2, 9)
    p[0, 4] = 1.0
    p[1, 0] = p[1, 8] = 0.5
    assert expected_rating(p).tolist() == [5.0, 5.0]
    assert rating_spread(p).tolist() == [0.0, 4.0]
