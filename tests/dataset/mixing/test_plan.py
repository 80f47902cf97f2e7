import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml

from pipelines.dataset.mixing.plan import SourceCount, plan_mixture
from pipelines.dataset.mixing.rules import Curriculum, Mixture


def counts(**sources):
    """source=(sequences, tokens)"""
    return [SourceCount(source=name, num_sequences=n, num_tokens=t) for name, (n, t) in sources.items()]


THREE = counts(web=(800, 8000), wiki=(150, 1500), code=(50, 500))  # 10 tokens per sequence


def planned(mixture, of=THREE, *, num_epochs=1.0, global_batch=10):
    plan = plan_mixture(mixture, of, num_epochs=num_epochs, global_batch=global_batch)
    return {each.source: each.num_planned for each in plan.sources}


def test_shares_of_tokens_become_sequences():
    shares = {"web": 0.5, "wiki": 0.3, "code": 0.2}
    assert planned(Mixture(shares=shares)) == {"web": 500, "wiki": 300, "code": 200}
    # Sequences of b are four times as long: half of the tokens are a fifth of the sequences.
    unequal = counts(a=(500, 5000), b=(500, 20000))
    plan = plan_mixture(Mixture(shares={"a": 0.5, "b": 0.5}), unequal, num_epochs=1, global_batch=10)
    assert [each.num_planned for each in plan.sources] == [800, 200]
    assert [each.share for each in plan.sources] == [0.5, 0.5]
    assert [each.repeats for each in plan.sources] == [1.6, 0.4]


def test_sources_without_a_share_divide_the_rest_by_size():
    # web leaves 0.6; wiki and code have 1500 and 500 tokens.
    assert planned(Mixture(shares={"web": 0.4})) == {"web": 400, "wiki": 450, "code": 150}


def test_a_temperature_makes_sources_more_alike():
    of = counts(a=(100, 1600), b=(100, 400), c=(100, 100))
    # Weights at T = 2: 40, 20, 10 tokens; per sequence 16, 4, 1 tokens: 2.5, 5, 10 parts of 17.5.
    assert planned(Mixture(temperature=2.0), of, global_batch=7, num_epochs=0.1166) == {
        "a": 5,
        "b": 10,
        "c": 20,
    }
    assert planned(Mixture(temperature=1.0, max_repeats=1), of, global_batch=10) == {
        "a": 100,
        "b": 100,
        "c": 100,
    }


def test_a_source_that_is_left_out_gives_nothing_and_shortens_the_training():
    assert planned(Mixture(shares={"web": 0.0})) == {"web": 0, "wiki": 150, "code": 50}


def test_max_sequences_limits_what_is_read_and_counts_for_the_size():
    plan = plan_mixture(Mixture(max_sequences={"web": 200}), THREE, num_epochs=2, global_batch=10)
    assert [(each.source, each.num_used, each.num_planned) for each in plan.sources] == [
        ("code", 50, 100),
        ("web", 200, 400),
        ("wiki", 150, 300),
    ]


def test_what_max_repeats_cuts_goes_to_sources_without_a_share():
    # Nearly equal shares would be 333 each; code may give 4 * 50 and wiki 4 * 150.
    mixture = Mixture(temperature=1e9, max_repeats=4)
    assert planned(mixture) == {"code": 200, "web": 400, "wiki": 400}
    # One limit after the other: 2 * 50, then 2 * 150, and web has the rest.
    assert planned(Mixture(temperature=1e9, max_repeats=2)) == {"code": 100, "web": 600, "wiki": 300}
    # Shares that were named stay.
    mixture = Mixture(shares={"wiki": 0.3}, temperature=1e9, max_repeats={"code": 2.5})
    plan = plan_mixture(mixture, THREE, num_epochs=1, global_batch=10)
    assert {each.source: each.num_planned for each in plan.sources} == {"code": 125, "web": 575, "wiki": 300}
    assert [each.is_limited for each in plan.sources] == [True, False, False]


def test_limits_keep_shares_of_tokens_where_sequences_differ_in_length():
    # code (2 tokens) may give 100 sequences = 200 tokens. wiki shall have 0.5 of all tokens T at 20 each, and
    # web the rest at 10: 1000 = 0.5 T / 20 + 100 + (0.5 T - 200) / 10, so T = 12,266.7 tokens.
    of = counts(web=(800, 8000), wiki=(150, 3000), code=(50, 100))
    mixture = Mixture(shares={"wiki": 0.5}, temperature=1e9, max_repeats={"code": 2})
    plan = plan_mixture(mixture, of, num_epochs=1, global_batch=10)
    assert {each.source: each.num_planned for each in plan.sources} == {"code": 100, "web": 593, "wiki": 307}
    assert plan.sources[2].share == pytest.approx(0.5, abs=1e-3)


def test_rounding_keeps_every_source_within_one_sequence():
    of = counts(a=(1, 10), b=(1, 10), c=(1, 10))
    plan = plan_mixture(Mixture(shares={"a": 1 / 3, "b": 1 / 3}), of, num_epochs=4, global_batch=5)
    assert [each.num_planned for each in plan.sources] == [5, 5, 5]
    assert sorted(planned(Mixture(shares={"a": 0.5}), of, num_epochs=2.3).values()) == [2, 3, 5]
    assert plan.num_planned == 15


def test_a_share_that_repeats_too_often_is_refused_with_values_that_fit():
    shares = {"web": 0.5, "wiki": 0.3, "code": 0.2}
    with pytest.raises(
        ValueError, match=r"4 passes over the 50 sequences of source code, and max_repeats is 3"
    ):
        planned(Mixture(shares=shares, max_repeats=3))
    with pytest.raises(ValueError, match=r"set finetune.num_epochs to 0.75 or less, or raise"):
        planned(Mixture(shares=shares, max_repeats=3))  # a lower share alone would not add up to 1
    with pytest.raises(ValueError, match=r"set finetune.mixture.shares=\{code: 0.15\}, or raise"):
        planned(Mixture(shares={"code": 0.2}, max_repeats={"code": 3}))
    assert planned(Mixture(shares=shares, max_repeats=3), num_epochs=0.75)["code"] == 150
    assert planned(Mixture(shares=shares, max_repeats=4))["code"] == 200


def test_more_sequences_than_all_limits_give_are_refused():
    with pytest.raises(ValueError, match=r"code, web, wiki give only 1,500.*num_epochs to 1.5 or less"):
        planned(Mixture(max_repeats=1.5), num_epochs=2)
    assert planned(Mixture(max_repeats=1.5), num_epochs=1.5) == {"code": 75, "web": 1200, "wiki": 225}


def test_what_fills_up_the_last_batch_does_not_count_as_a_repetition():
    of = counts(web=(801, 8010), wiki=(150, 1500))
    assert planned(Mixture(max_repeats=1), of, global_batch=32) == {"web": 809, "wiki": 151}
    # Where others may give more, they fill it up: 1.1 * 951 = 1,046.1 sequences in 33 batches.
    mixture = Mixture(max_repeats={"wiki": 1})
    assert planned(mixture, of, num_epochs=1.1, global_batch=32) == {"web": 906, "wiki": 150}
    with pytest.raises(ValueError, match=r"num_epochs to 1 or less"):
        planned(Mixture(max_repeats=1), of, num_epochs=1.001, global_batch=32)


def test_a_low_temperature_leaves_the_largest_source():
    of = counts(web=(10**6, 10**9), wiki=(900_000, 9 * 10**8), code=(5, 500))
    plan = planned(Mixture(temperature=0.02), of)
    # (9 / 10)^50 = 0.005154 to 1, of 1,900,010 sequences.
    assert plan == {"code": 0, "web": 1_890_268, "wiki": 9_742}


def draw_case(random):
    """A mixture with limits that are often too narrow, on sources of any size."""
    names = ["a", "b.c", "d e"][: random.integers(1, 4)]
    of = [
        SourceCount(source=name, num_sequences=n, num_tokens=n * int(random.integers(1, 200)))
        for name, n in ((name, int(10 ** random.uniform(0, 4))) for name in names)
    ]
    weights = random.dirichlet(np.ones(len(names)))
    shares = dict(zip(names, (weights * random.choice([0.9, 1.0])).tolist(), strict=True))
    if sum(shares.values()) < 0.95 or random.random() < 0.5:
        shares = dict(list(shares.items())[: random.integers(0, len(names))])
    limit = float(random.choice([0.5, 1, 1, 3]))
    mixture = Mixture(
        shares=shares,
        temperature=float(random.choice([0.02, 1, 3])),
        max_repeats=limit if random.random() < 0.5 else {names[0]: limit},
    )
    others = {
        "num_epochs": random.choice([0.3, 1, 2.7]),
        "global_batch": int(random.choice([1, 7, 64, 1000])),
    }
    return mixture, of, others


def test_values_that_a_refusal_names_are_accepted():
    random, seen = np.random.default_rng(0), Counter()
    for _ in range(600):
        mixture, of, others = draw_case(random)
        try:
            plan = plan_mixture(mixture, of, **others)
        except ValueError as refusal:
            epochs = re.search(r"finetune\.num_epochs to (\S+) or less", str(refusal))
            plan_mixture(mixture, of, **{**others, "num_epochs": float(epochs[1])})
            seen["epochs"] += 1
            if found := re.search(r"finetune\.mixture\.shares=(\{.*\})", str(refusal)):
                less = replace(mixture, shares={**mixture.shares, **yaml.safe_load(found[1])})
                plan_mixture(less, of, **others)
                seen["share"] += 1
            continue
        seen["accepted"] += 1
        for each in plan.sources:
            over = each.num_planned - mixture.find_limit(each.source) * each.num_used
            assert over < others["global_batch"] + 1  # and one by rounding
            seen["over"] += over > 1
    assert min(seen[kind] for kind in ("accepted", "epochs", "share", "over")) > 20, seen


def test_shares_must_add_up_and_name_sources_that_exist():
    with pytest.raises(ValueError, match="names source news, and the train split has only code, web, wiki"):
        planned(Mixture(shares={"news": 0.1}))
    with pytest.raises(ValueError, match="names source news"):
        planned(Mixture(max_repeats={"news": 2}))
    with pytest.raises(ValueError, match=r"must add up to 1, got 0.9"):
        planned(Mixture(shares={"web": 0.5, "wiki": 0.3, "code": 0.1}))
    with pytest.raises(ValueError, match="add up to 1, and source wiki has no share"):
        planned(Mixture(shares={"web": 0.5, "code": 0.5}))
    assert planned(Mixture(shares={"web": 0.5, "code": 0.5, "wiki": 0.0}))["wiki"] == 0
    with pytest.raises(ValueError, match="the train split has no sequences to mix"):
        planned(Mixture(temperature=2.0), [])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shares": {"a": 0.7, "b": 0.4}}, "at most 1, got 1.1"),
        ({"shares": {"a": -0.1}}, r"shares.a must be in \[0, 1\], got -0.1"),
        ({"temperature": 0.0}, "temperature must be greater than 0, got 0"),
        ({"max_repeats": 0.0}, "max_repeats must be greater than 0, got 0"),
        ({"max_repeats": {"a": -1.0}}, "max_repeats.a must be greater than 0, got -1"),
        ({"max_sequences": {"a": 0}}, "max_sequences.a must be at least 1, got 0; to leave a source out"),
    ],
)
def test_wrong_values_of_a_mixture_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps_fraction": 0.0}, r"steps_fraction must be in \(0, 1\], got 0"),
        ({"start_fraction": 1.1}, r"start_fraction must be in \(0, 1\], got 1.1"),
        ({"power": 0.5}, "power must be at least 1, got 0.5"),
    ],
)
def test_wrong_values_of_a_curriculum_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Curriculum(**wrong)


def test_competence_is_that_of_the_paper():
    # c0 = 0.1 and x = 0.5: linear 0.1 + 0.9 / 2; root sqrt(0.01 + 0.99 / 2).
    assert Curriculum(power=1.0).find_competence(0.5) == pytest.approx(0.55)
    assert Curriculum(power=2.0).find_competence(0.5) == pytest.approx(0.7106335)
    assert Curriculum().find_competence(0) == pytest.approx(0.1)
    assert Curriculum().find_competence(1) == 1
