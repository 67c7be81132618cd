import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rewards import objectives as o
from workers.rewards.scale import LEVEL_INDEX, UNKNOWN, Partition, expected_rating, rating_spread

BAD, NORMAL, GOOD = (LEVEL_INDEX[name] for name in ("bad", "normal", "good"))
UNIFORM = torch.full((1, 9), 1 / 9, dtype=torch.float64).log()
SCALE = Partition()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def win_loss(region: str, level_a: int, level_b: int, strength: int = 1) -> float:
    mask = o.region_mask(SCALE, region, level_a, level_b, strength)
    return -o.log_mass(UNIFORM, UNIFORM, mask).item()


# -- exact values at uniform p (METHODS.md 2) --


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


# -- gradients and identities --


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


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=18, max_size=18))
def test_w_t_and_w_reversed_add_up_to_one(logits: list[float]) -> None:
    pair = torch.tensor(logits, dtype=torch.float64).reshape(2, 1, 9)
    outcomes = o.outcome_probabilities(o.log_ratings(pair[0]), o.log_ratings(pair[1]))
    assert outcomes.sum().item() == pytest.approx(1.0, abs=1e-12)


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


def test_bt_refuses_outcomes_it_has_no_threshold_for() -> None:
    for outcome in (o.TIE, o.BOTH_BAD):
        with pytest.raises(ValueError, match="threshold"):
            o.bt_terms(torch.zeros(1), torch.zeros(1), torch.tensor([outcome]))


def test_bt_is_oprm_with_gumbel_scores_in_the_limit() -> None:
    """Two Gumbel-distributed qualities on a fine grid: P(a > b) tends to sigmoid(r_a - r_b)."""
    grid = torch.linspace(-12, 20, 4001, dtype=torch.float64)
    p = [(-(grid - r) - torch.exp(-(grid - r))).softmax(0) for r in (1.1, 0.4)]
    below = torch.cumsum(p[1], 0) - p[1] / 2
    assert (p[0] * below).sum().item() == pytest.approx(torch.sigmoid(torch.tensor(0.7)).item(), abs=1e-4)


def test_ties_and_both_bad_of_oprm() -> None:
    nothing = torch.zeros(1, 9, 9, dtype=torch.bool)
    nothing[0, 1, 0] = True
    bad = SCALE.masks()[BAD]
    tie = o.oprm_terms(UNIFORM, UNIFORM, torch.tensor([o.TIE]), nothing, bad)
    both = o.oprm_terms(UNIFORM, UNIFORM, torch.tensor([o.BOTH_BAD]), nothing, bad)
    assert tie.item() == pytest.approx(math.log(9))
    assert both.item() == pytest.approx(2 * math.log(3))


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


def test_policy_terms() -> None:
    h, beta = 2.0, 0.1
    pi_a, pi_b, ref_a, ref_b = (torch.tensor([value]) for value in (-3.0, -6.0, -4.0, -5.0))

    def policy(loss: str) -> float:
        tokens = torch.tensor([2]), torch.tensor([3])
        return o.policy_terms(pi_a, pi_b, ref_a, ref_b, tokens[0], tokens[1], loss=loss, beta=beta).item()

    expected = {
        "dpo": math.log1p(math.exp(-beta * h)),
        "hinge": 1 - beta * h,
        "ipo": ((1.0 / 2 - -1.0 / 3) - 5.0) ** 2,
        "slic": 1 - beta * 3.0,
        "simpo": math.log1p(math.exp(-(beta * (-1.5 + 2.0) - 0.5))),
    }
    for loss, value in expected.items():
        assert policy(loss) == pytest.approx(value, abs=1e-5)
    with pytest.raises(ValueError, match="unknown policy loss"):
        policy("ppo")


# -- finite differences in float64 --


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

    def policy(loss: str) -> Callable[..., torch.Tensor]:
        count = torch.tensor([3.0, 5.0, 2.0, 4.0], dtype=torch.float64)
        return lambda a, b: o.policy_terms(
            a, b, draw(4, seed=2), draw(4, seed=3), count, count + 1, loss=loss
        )

    return {
        "bt": (bt, (*scalars, *thresholds)),
        "clf": (lambda a, b: o.clf_terms(a, b, outcome), scalars),
        "oprm": (oprm, ratings),
        "level": (level, ratings[:1]),
        **{loss: (policy(loss), scalars) for loss in o.POLICY_LOSSES},
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
    loss.backward()
    assert far.grad is not None
    assert logits.grad is not None
    assert torch.isfinite(far.grad).all()
    assert torch.isfinite(logits.grad).all()


# -- the scale --


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
