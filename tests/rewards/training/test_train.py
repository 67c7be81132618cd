import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from workers.rewards.artifacts.save import ArtifactError, load_model
from workers.rewards.config import Refused, RunConfig
from workers.rewards.data.judgements import check_labels, training_data
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.data.split import split_groups
from workers.rewards.evaluate import evaluate_saved
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.models.load import load_backbone
from workers.rewards.models.packing import Packed
from workers.rewards.models.predict import expected_rating, score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.objectives import log_ratings
from workers.rewards.objectives.outcomes import BOTH_BAD, TIE, WIN
from workers.rewards.score import main as score_main
from workers.rewards.text.sections import Encoded
from workers.rewards.train import main as train_main
from workers.rewards.training.loop import train
from workers.rewards.training.optimiser import schedule

MakeRun = Callable[..., Path]

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("tiny_encoder", "bt", {}),
    ("tiny_encoder", "clf", {}),
    ("tiny_encoder", "oprm", {}),
    ("tiny_encoder", "rgft", {"region": "flood", "level_terms": "all"}),
    ("tiny_encoder", "rgft", {"partition": [2, 7], "region": "rectangle"}),
    ("tiny_encoder", "bt", {"tuning": "frozen"}),
    ("tiny_encoder", "rgft", {"tuning": "frozen"}),
    ("tiny_encoder", "bt", {"pool_prompt": True}),
    ("tiny_encoder", "oprm", {"tuning": "frozen", "pool_prompt": True}),
    ("tiny_lm", "bt", {}),
    ("tiny_lm", "oprm", {}),
    ("tiny_lm", "haf", {}),
    ("tiny_lm", "rgft", {"tuning": "lora", "lora_rank": 4}),
    ("tiny_lm", "haf", {"tuning": "lora", "lora_rank": 4}),
    ("tiny_lm", "haf", {"haf_head": "ordinal"}),
    ("tiny_lm", "haf", {"haf_head": "ordinal", "tuning": "lora", "lora_rank": 4}),
]


@pytest.mark.parametrize(("base", "method", "extra"), CASES, ids=lambda v: str(v) if v != {} else "default")
def test_a_run_writes_what_the_contract_says(
    base: str, method: str, extra: dict[str, Any], request: pytest.FixtureRequest, make_run: MakeRun
) -> None:
    folder = make_run(request.getfixturevalue(base), method, **extra)
    metrics = train(folder)
    ordinal = method in ("oprm", "rgft") or extra.get("haf_head") == "ordinal"

    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert metrics["kind"] == ("ordinal" if ordinal else "scalar")
    assert 0 <= metrics["held_out"]["pairs"]["accuracy"]["value"] <= 1
    assert metrics["held_out"]["levels"]["n"] == 6  # scalar rewards have cut points
    assert (metrics["level_cuts"] is None) == ordinal
    assert metrics["training"]["levels"] == (0 if method == "oprm" else 30)
    assert metrics["training"]["judgements"] == 60  # 10 of 12 prompts, 6 each
    assert (metrics["training"]["levelled"] > 0) == (method == "rgft")
    assert metrics["training"]["truncated"] == 0

    snapshot = read_snapshot(folder / "snapshot")
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert [row["response_id"] for row in rows] == [row["response_id"] for row in snapshot.responses]
    assert [row["split"] for row in rows].count("held_out") == 6
    assert [row["split"] for row in rows].count(
        "crossfit" if extra.get("tuning") == "frozen" else "train"
    ) == 30
    for row in rows:
        if ordinal:
            assert sum(row["p"]) == pytest.approx(1)
            assert (
                row["score"]
                == row["expected"]
                == pytest.approx(sum((i + 1) * p for i, p in enumerate(row["p"])))
            )
        else:
            assert row["p"] is row["expected"] is row["spread"] is None

    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    assert {"loading", "training", "evaluating", "saving"} <= set(phases)
    assert lines[-1]["message"] == "done"
    assert not (folder / "checkpoint").exists()
    assert not (folder / "error.json").exists()

    # scores before save equal scores after load; cross-fitted ones are of other heads
    model, template, config = load_model(folder / "model")
    assert (config["backbone"], config["kind"]) == (
        "causal" if base == "tiny_lm" else "encoder",
        metrics["kind"],
    )
    again = score_responses(model, template, snapshot.responses)
    same = [
        (new["score"], old["score"])
        for new, old in zip(again, rows, strict=True)
        if old["split"] != "crossfit"
    ]
    assert len(same) > 0
    assert [new for new, _ in same] == pytest.approx([old for _, old in same], abs=1e-6)
    assert not list((folder / "model").glob("*.bin"))


@pytest.mark.parametrize("base", ["tiny_encoder", "tiny_lm"])
def test_training_learns_the_order(base: str, request: pytest.FixtureRequest, make_run: MakeRun) -> None:
    folder = make_run(
        request.getfixturevalue(base), "bt", epochs=15, learning_rate=3e-3, head_learning_rate=1e-2
    )
    assert train(folder)["held_out"]["pairs"]["accuracy"]["value"] == 1.0


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    make_run: MakeRun, tiny_encoder: Path
) -> None:
    digests = [
        train(make_run(tiny_encoder, "oprm", name=name, seed=seed))["model_digest"]
        for name, seed in (("one", 3), ("two", 3), ("three", 4))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_all_trainable_weights_move(make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, "oprm", epochs=2, learning_rate=1e-3)
    train(folder)
    before = load_backbone("tiny", str(tiny_encoder), "encoder").state_dict()
    model, _, _ = load_model(folder / "model")
    for name, after in model.backbone.state_dict().items():
        assert torch.equal(before[name], after) == name.startswith("pooler."), name


def test_ties_and_both_bad_train_thresholds_that_are_saved(
    make_run: MakeRun, tiny_encoder: Path, rows: tuple[list[dict[str, Any]], ...]
) -> None:
    verdicts = ["a", "b", "tie", "both_bad"]
    judged = [row | {"verdict": verdicts[number % 4]} for number, row in enumerate(rows[1])]
    for method in ("bt", "clf", "oprm"):
        folder = make_run(tiny_encoder, method, name=method, judgements=judged)
        train(folder)
        config = json.loads((folder / "model" / "reward_config.json").read_text())
        assert (config["tie"] is not None) == (method == "bt")
        # of "both bad" and of the levels it is one
        assert (config["bad_threshold"] is None) == (method == "oprm")
        assert config["level_cuts"] is None or config["level_cuts"][0] == config["bad_threshold"]


def test_new_adapters_are_nothing_and_merged_ones_score_alike(tiny_lm: Path) -> None:
    """So HaF's reference, which is kept before the first step, is the starting model's."""
    torch.manual_seed(0)
    backbone = load_backbone("tiny", str(tiny_lm), "causal")
    model = RewardModel(backbone, architecture="causal", kind="scalar").eval()
    ids, lengths = torch.randint(10, 200, (2, 9)), torch.tensor([9, 6])
    start = model.hidden(ids, lengths)
    model.add_lora(RunConfig(lora_rank=2))
    assert torch.equal(model.hidden(ids, lengths), start)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    moved = model.hidden(ids, lengths)
    assert not torch.allclose(moved, start)
    model.merge_lora()
    torch.testing.assert_close(model.hidden(ids, lengths), moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packing", ["packed", "sorted"])
@pytest.mark.parametrize("at_once", [1000, 2**28])
def test_response_log_probs_are_those_of_the_whole_vocabulary(
    tiny_lm: Path, packing: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "workers.rewards.models.reward_model.LOGITS_AT_ONCE", at_once
    )  # in parts, and all together
    backbone: Any = load_backbone("tiny", str(tiny_lm), "causal")
    model = RewardModel(backbone, architecture="causal", kind="scalar").eval()
    ids = torch.randint(10, 200, (2, 9))
    rows = [Encoded(tuple(ids[0].tolist()), 4, 9, False), Encoded(tuple(ids[1, :6].tolist()), 2, 5, False)]
    encoder = ResponseEncoder(model, torch.device("cpu"), 64, longest=9, packing=packing)
    _, got = encoder(rows, log_probs=True)
    assert got is not None
    logits = backbone(input_ids=ids).logits.log_softmax(-1)
    for number, row in enumerate(rows):
        places = range(row.start, row.stop)
        assert got[number].item() == pytest.approx(
            sum(logits[number, t - 1, row.ids[t]].item() for t in places), abs=1e-4
        )


@pytest.mark.parametrize("width", [0, 8])
def test_an_ordinal_head_starts_in_order(width: int, tiny_encoder: Path) -> None:
    """Its logits are one reward times how far a rating is from the middle, so E[s] rises with that reward."""
    backbone = load_backbone("tiny", str(tiny_encoder), "encoder")
    model = RewardModel(backbone, architecture="encoder", kind="ordinal", head_hidden=width).eval()
    with torch.no_grad():
        logits = model.score(torch.randn(20, model.hidden_size))
    reward = logits[:, 5]  # of rating 6, one above the middle
    torch.testing.assert_close(logits, reward[:, None] * (torch.arange(9) - 4.0))
    expected = expected_rating(log_ratings(logits).exp())
    assert expected[reward.argsort()].diff().ge(0).all()


def test_ordinal_scores_are_the_digit_rows_of_the_lm_head(tiny_lm: Path) -> None:
    backbone: Any = load_backbone("tiny", str(tiny_lm), "causal")
    digits = tuple(range(20, 29))
    model = RewardModel(backbone, architecture="causal", kind="ordinal", digit_ids=digits).eval()
    ids, lengths = torch.randint(10, 200, (2, 9)), torch.tensor([9, 6])
    whole = backbone(input_ids=ids).logits
    expected = torch.stack([whole[0, 8, list(digits)], whole[1, 5, list(digits)]])
    torch.testing.assert_close(model(ids, lengths, torch.zeros_like(lengths)), expected, rtol=1e-4, atol=1e-5)


# --- Refusals ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1e-3}, "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ({"epochs": "3"}, "epochs is '3'; it must be a whole number or null"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 0}, "epochs is 0; it must lie within"),
        ({"method": "ppo"}, "method is 'ppo'; choose one of bt"),
        ({"partition": [6, 3]}, "must rise"),
        ({"partition": [3]}, "two rising ratings"),
        ({"format": 2}, "format is 2"),
        ({"base_model": "  "[:0]}, "base_model is empty"),
        ({"use_strength": 1}, "true or false"),
        ({"held_out_groups": "x"}, "a list of strings"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"votes": "all"}, "votes is 'all'; choose one of each, majority"),
        ({"haf_head": "digits"}, "haf_head is 'digits'"),
        ({"policy_loss": "ipo"}, "policy_loss is no option any more; leave it out"),
        ({"nonce": True}, "nonce is no option any more; leave it out"),
    ],
)
def test_a_wrong_config_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        RunConfig.from_dict(given)
    assert message in str(caught.value)


def test_config_round_trip() -> None:
    asked = RunConfig.from_dict({"method": "oprm", "held_out_groups": ["x"]})
    config = asked.resolved("encoder", 384).with_budget(10_000)
    for each in (asked, config):
        assert RunConfig.from_dict(json.loads(json.dumps(each.to_json()))).to_json() == each.to_json()


def test_every_refusal_is_one_line_with_its_own_exit_status(
    make_run: MakeRun, tiny_encoder: Path, tiny_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def empty(table: str) -> dict[str, Any]:
        return {table: []}

    asked: list[tuple[Path, str]] = [
        (make_run(tiny_encoder, "bt", name="a", responses=[], judgements=[], levels=[]), "holds no response"),
        (make_run(tiny_encoder, "bt", name="b", judgements=[], levels=[]), "no label"),
        (make_run(tiny_encoder, "rgft", name="c", **empty("levels")), "has none"),
        (make_run(tiny_encoder, "haf", name="d"), "haf needs a causal language model"),
        (make_run(tiny_encoder, "bt", name="e", tuning="lora"), "tuning is 'lora'"),
        (make_run(tiny_lm, "bt", name="f", tuning="frozen"), "tuning is 'frozen'"),
        (make_run(tmp_path / "nowhere", "bt", name="g"), "can't be loaded"),
        (make_run(tiny_encoder, "bt", name="h", bogus=1), "unknown key 'bogus'"),
        (make_run(tiny_encoder, "bt", name="i", held_out_groups=["mars"]), "'mars'"),
    ]
    torn = make_run(tiny_encoder, "bt", name="torn")
    path = torn / "snapshot" / "judgements.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    asked.append((torn, "judgements.parquet is damaged"))
    gone = make_run(tiny_encoder, "bt", name="gone")
    (gone / "snapshot" / "levels.parquet").unlink()
    asked.append((gone, "levels.parquet does not exist"))
    for folder, message in asked:
        assert train_main([str(folder)]) == 2
        error = json.loads((folder / "error.json").read_text())
        assert error["kind"] == "refused"
        assert message in error["message"]
        assert "\n" not in error["message"]
        assert capsys.readouterr().err.splitlines()[-1] == f"refused: {error['message']}"


def test_a_base_model_of_pickles_is_refused(make_run: MakeRun, tiny_encoder: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in tiny_encoder.iterdir():
        if path.suffix != ".safetensors":
            (pickled / path.name).write_bytes(path.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(Refused, match="has pickled weights alone"):
        train(make_run(pickled, "bt"))


def test_bad_rows_are_refused_with_row_and_field(
    make_run: MakeRun, tiny_encoder: Path, rows: tuple[list[dict[str, Any]], ...]
) -> None:
    first = rows[1][0]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"verdict": "c"}, "row 0: verdict 'c'"),
        ({"response_a": "nobody"}, "row 0: response_a 'nobody'"),
        ({"strength": 7}, "row 0: strength 7"),
        ({"response_b": first["response_a"]}, "compared with itself"),
        ({"left": "c"}, "row 0: left 'c'"),
        ({"weight": 0.0}, r"row 0: weight 0\.0 must be a positive number"),
        ({"weight": float("inf")}, "row 0: weight inf"),
    ]
    for number, (change, message) in enumerate(changes):
        folder = make_run(tiny_encoder, "bt", name=str(number), judgements=[first | change])
        with pytest.raises(Refused, match=message):
            read_snapshot(folder / "snapshot")


def test_a_crash_leaves_a_readable_error(make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, "bt", learning_rate=1.0, head_learning_rate=1.0, clip_norm=1e6, epochs=1)
    (folder / "model").write_text("in the way")  # a file where the model's folder belongs
    assert train_main([str(folder)]) == 1
    error = json.loads((folder / "error.json").read_text())
    assert error["kind"] == "crashed"
    assert error["message"].startswith(("NotADirectoryError", "FileExistsError"))


# --- Split and labels ---


def test_the_split_is_by_group_and_independent_of_row_order(make_run: MakeRun, rows: Any) -> None:
    config = RunConfig()
    straight = read_snapshot(make_run("x", "bt", name="one") / "snapshot")
    shuffled = read_snapshot(make_run("x", "bt", name="two", responses=rows[0][::-1]) / "snapshot")
    split = split_groups(straight, config)
    assert split == split_groups(shuffled, config)
    assert (split.unit, len(split.held_out)) == ("group", 2)
    assert split != split_groups(straight, RunConfig(seed=1))


@pytest.mark.parametrize(("groups", "prompts", "unit"), [(2, 12, "prompt"), (2, 3, "none"), (6, 6, "group")])
def test_few_groups_are_said(groups: int, prompts: int, unit: str, make_run: MakeRun, rows: Any) -> None:
    responses = [
        row | {"prompt_id": f"p{number}", "group": f"g{number % groups}"}
        for row in rows[0]
        for number in [int(row["prompt_id"][1:]) % prompts]
    ]
    split = split_groups(read_snapshot(make_run("x", "bt", responses=responses) / "snapshot"), RunConfig())
    assert split.unit == unit
    assert (split.note is not None) == (unit != "group")


def test_without_held_out_data_the_metrics_are_null(make_run: MakeRun, tiny_encoder: Path) -> None:
    metrics = train(make_run(tiny_encoder, "bt", holdout=0.0, epochs=1))
    assert metrics["held_out"]["pairs"] is None
    assert metrics["training"]["judgements"] == 72


def test_contradictions_and_crossings_are_dropped_and_counted(make_run: MakeRun, rows: Any) -> None:
    judged = [
        {"response_a": "0-bad", "response_b": "0-good", "verdict": "a"},
        {"response_a": "0-bad", "response_b": "0-good", "verdict": "tie"},
        {"response_a": "0-normal", "response_b": "0-bad", "verdict": "both_bad"},
        {"response_a": "0-good", "response_b": "0-bad", "verdict": "a"},
        {"response_a": "1-good", "response_b": "0-bad", "verdict": "a"},
    ]
    config = RunConfig(method="rgft", held_out_groups=("p1",), level_terms="unpaired")
    snapshot = read_snapshot(make_run("x", "rgft", judgements=judged) / "snapshot")
    check_labels(snapshot, config)
    data = training_data(snapshot, split_groups(snapshot, config), config)
    assert len(data.first) == 1
    assert data.dropped == {"contradicts_levels": 3, "crosses_split": 1}
    # levels of the 31 other responses of training groups, which have no pair left, teach on their own
    assert len(data.level_response) == 31
    every = training_data(snapshot, split_groups(snapshot, config), replace(config, level_terms="all"))
    assert len(every.level_response) == 33
    plain = training_data(
        snapshot, split_groups(snapshot, config), RunConfig(method="oprm", held_out_groups=("p1",))
    )
    assert len(plain.first) == 4
    assert plain.dropped == {"crosses_split": 1}


@pytest.mark.parametrize(
    ("given", "uses"),
    [
        ({"method": "bt"}, True),
        ({"method": "haf"}, True),
        ({"method": "oprm"}, False),
        ({"method": "haf", "haf_head": "ordinal"}, False),
        ({"method": "oprm", "strength": "margin"}, True),
        ({"method": "bt", "strength": "none"}, False),
        ({"method": "oprm", "use_strength": True}, True),  # its name until 0.5
        ({"method": "bt", "use_strength": False}, False),
        ({"method": "bt", "use_strength": None}, True),
    ],
)
def test_strength_counts_for_scalar_rewards_unless_told(
    given: dict[str, Any], uses: bool, make_run: MakeRun
) -> None:
    judged = [{"response_a": "0-good", "response_b": "0-bad", "verdict": "a", "strength": 3}]
    snapshot = read_snapshot(make_run("x", "bt", judgements=judged) / "snapshot")
    config = RunConfig.from_dict({**given, "holdout": 0.0})
    data = training_data(snapshot, split_groups(snapshot, config), config)
    assert data.strength.tolist() == [3 if uses else 1]


def test_sides_and_weights_are_read_and_older_snapshots_lack_them(make_run: MakeRun, rows: Any) -> None:
    pair = {"response_a": "0-good", "response_b": "0-bad"}
    judged = [
        {**pair, "verdict": "a", "left": "a", "weight": 2.5, "annotator": "ann"},
        {**pair, "verdict": "b", "left": "a", "annotator": "ben"},
        {**pair, "verdict": "b", "left": "b", "annotator": "ann"},
        {**pair, "verdict": "tie", "left": None, "annotator": None},
    ]
    config = RunConfig(holdout=0.0)
    folder = make_run("x", "bt", judgements=judged) / "snapshot"
    snapshot = read_snapshot(folder)
    data = training_data(snapshot, split_groups(snapshot, config), config)
    assert data.first_left.tolist() == [1, 0, 1, -1]
    assert data.weight.tolist() == [2.5, 1, 1, 1]
    assert [data.annotators[person] for person in data.annotator] == ["ann", "ben", "ann", "anonymous"]
    path = folder / "judgements.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["left", "weight"]), path)
    old = read_snapshot(folder)
    assert [(row["left"], row["weight"]) for row in old.judgements] == [(None, None)] * 4


def test_majority_votes_make_one_judgement_a_pair(make_run: MakeRun, rows: Any) -> None:
    def votes(a: str, b: str, *verdicts: str, **columns: Any) -> list[dict[str, Any]]:
        return [{"response_a": a, "response_b": b, "verdict": verdict, **columns} for verdict in verdicts]

    judged = [
        *votes("0-good", "0-bad", "a", "a", "b", strength=2),
        *votes("0-bad", "0-good", "b", "tie"),  # the same pair from its other side
        *votes("1-good", "1-bad", "a", "b"),
        *votes("2-good", "2-bad", "b"),
        *votes("2-good", "2-bad", "a", weight=3.0),
        *votes("3-good", "3-bad", "both_bad", "both_bad", "a"),
    ]
    snapshot = read_snapshot(make_run("x", "bt", judgements=judged) / "snapshot")
    config = RunConfig(holdout=0.0, votes="majority")
    data = training_data(snapshot, split_groups(snapshot, config), config)
    names = [row["response_id"] for row in snapshot.responses]
    assert data.outcome.tolist() == [WIN, TIE, WIN, BOTH_BAD]
    won = [(names[a], names[b]) for a, b in zip(data.first, data.second, strict=True)]
    assert (won[0], won[2]) == (("0-good", "0-bad"), ("2-good", "2-bad"))
    assert data.strength.tolist() == [2, 1, 1, 1]
    assert data.annotators == ["majority"]
    each = training_data(snapshot, split_groups(snapshot, config), RunConfig(holdout=0.0))
    assert len(each.first) == len(judged)


def test_majority_votes_train(make_run: MakeRun, tiny_encoder: Path) -> None:
    metrics = train(make_run(tiny_encoder, "bt", votes="majority", epochs=1))
    assert metrics["training"]["judgements"] == 30  # 60 of two people
    assert metrics["annotators"] is None


@pytest.mark.parametrize(
    ("base", "method", "extra"),
    [
        ("tiny_encoder", "bt", {"tuning": "frozen", "patience": 2}),
        ("tiny_encoder", "clf", {}),
        ("tiny_encoder", "oprm", {"level_terms": "all"}),
        ("tiny_encoder", "rgft", {}),
        ("tiny_lm", "haf", {}),
        ("tiny_lm", "haf", {"haf_head": "ordinal"}),
    ],
)
def test_levels_alone_train_every_method(
    base: str, method: str, extra: dict[str, Any], make_run: MakeRun, request: pytest.FixtureRequest
) -> None:
    folder = make_run(request.getfixturevalue(base), method, judgements=[], epochs=2, **extra)
    assert train_main([str(folder)]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["training"]["levels"] >= 24
    assert metrics["training"]["policy_off"] == (method == "haf")
    assert metrics["held_out"]["pairs"] is None
    assert metrics["held_out"]["levels"]["constant"]["value"] == pytest.approx(1 / 3)
    assert metrics["training"]["loss"]["last"] < metrics["training"]["loss"]["first"]


@pytest.mark.parametrize(("method", "extra"), [("oprm", {}), ("rgft", {"level_terms": "none"})])
def test_levels_that_nobody_learns_from_are_refused_with_the_remedy(
    method: str, extra: dict[str, Any], make_run: MakeRun, tiny_encoder: Path
) -> None:
    folder = make_run(tiny_encoder, method, judgements=[], **extra)
    with pytest.raises(Refused, match=r"levels alone.* set level_terms to 'all'"):
        train(folder)


@pytest.mark.parametrize("method", ["bt", "clf"])
def test_cut_points_learn_the_levels(method: str, make_run: MakeRun, tiny_encoder: Path) -> None:
    rates = {"epochs": 20, "learning_rate": 3e-3, "head_learning_rate": 1e-2}
    folder = make_run(tiny_encoder, method, **rates)
    metrics = train(folder)
    low, high = metrics["level_cuts"]
    assert low < high
    assert metrics["held_out"]["levels"]["accuracy"] == 1.0  # of a constant guess: a third
    assert metrics["held_out"]["pairs"]["accuracy"]["value"] == 1.0
    _, _, config = load_model(folder / "model")
    assert config["level_cuts"] == metrics["level_cuts"]
    again = evaluate_saved(folder / "model", folder / "snapshot", metrics["split"]["held_out"])
    assert again["metrics"]["levels"]["rps"] == pytest.approx(metrics["held_out"]["levels"]["rps"], abs=1e-6)


def test_strengths_teach_thresholds_that_are_saved(make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, "bt", strength="thresholds", epochs=1)
    config = RunConfig.read(folder / "config.json")
    snapshot = read_snapshot(folder / "snapshot")
    data = training_data(snapshot, split_groups(snapshot, config), config)
    assert set(data.strength.tolist()) == {0, 2}  # 0: nobody said it
    train(folder)
    steps = json.loads((folder / "model" / "reward_config.json").read_text())["strength_steps"]
    assert 0 < steps[0] < steps[1]
    with pytest.raises(Refused, match="the difference of two rewards"):
        RunConfig.from_dict({"method": "oprm", "strength": "thresholds"})


def test_schedule() -> None:
    values = [schedule(step, 100, 0.1) for step in range(100)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == values[9] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(1 / 90)


# --- Artifacts and scoring ---


def test_a_damaged_model_gives_one_readable_line(
    make_run: MakeRun, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tiny_encoder, "oprm", epochs=1)
    train(folder)
    model = folder / "model"
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "water it", "response_id": "x"}) + "\n")
    assert score_main([str(model), str(texts)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["response_id"] == "x"
    assert score_main([str(model), str(texts), "--out", str(tmp_path / "scores.parquet")]) == 0
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 1
    texts.write_text('{"text": 1}\n')
    assert score_main([str(model), str(texts)]) == 2
    assert "line 1: text must be a text, not 1" in capsys.readouterr().err

    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        load_model(model)
    weights.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load_model(model)
    weights.write_bytes(whole)
    config = model / "reward_config.json"
    text = config.read_text()
    for broken in (text[:50], text.replace('"format": 1', '"format": 99'), "[]"):
        config.write_text(broken)
        with pytest.raises(ArtifactError) as caught:
            load_model(model)
        assert "\n" not in str(caught.value)
    assert score_main([str(tmp_path), str(texts)]) == 2


def test_the_embedding_cache_is_used_and_survives_damage(
    make_run: MakeRun, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CALIPER_CACHE_DIR", str(tmp_path / "cache"))
    first = train(make_run(tiny_encoder, "bt", name="one", tuning="frozen"))
    shards = list((tmp_path / "cache").rglob("*.safetensors"))
    encoded: list[int] = []
    original = RewardModel.hidden_packed

    def counted(model: RewardModel, packed: Packed) -> torch.Tensor:
        encoded.append(len(packed.counts))
        return original(model, packed)

    monkeypatch.setattr(RewardModel, "hidden_packed", counted)
    second = train(make_run(tiny_encoder, "bt", name="two", tuning="frozen"))
    assert not encoded  # but for the robustness suite's look at padding, which a cache would hide
    assert second["model_digest"] == first["model_digest"]
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[:100])
    encoded.clear()
    third = train(make_run(tiny_encoder, "bt", name="three", tuning="frozen"))
    assert sum(encoded) > 36
    assert third["model_digest"] == first["model_digest"]
