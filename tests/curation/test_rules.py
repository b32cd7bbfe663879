"""Rules drop segments by their measures, each segment once."""

import numpy as np
import pandas as pd
import pytest

from ctp.curation.config import RulesConfig
from ctp.curation.rules import NAMES, check_something_is_kept, decide

GOOD = {
    "start_seconds": 0.0,
    "end_seconds": 5.0,
    "damaged_share": 0.0,
    "short_side_px": 200,
    "brightness": 0.5,
    "motion": 0.2,
    "shake": 0.05,
    "text_share": 0.0,
    "hash_quality": 90,
}
BAD = {
    "damaged": {"damaged_share": 0.1},
    "short": {"end_seconds": 1.4},
    "small": {"short_side_px": 111},
    "dark": {"brightness": 0.01},
    "static": {"motion": 0.0},
    "shaky": {"shake": 3.0},
    "text": {"text_share": 0.5},
}


def make_segments(*changes):
    rng = np.random.default_rng(0)
    rows = [
        {"id": f"film/{i}", "hashes": rng.bytes(96), **GOOD, **change}
        for i, change in enumerate(changes)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", BAD)
def test_each_rule_drops_what_it_is_for(name):
    decided = decide(make_segments({}, BAD[name]), RulesConfig())
    assert decided["rule"].tolist() == ["", name]


@pytest.mark.parametrize("name", BAD)
def test_a_rule_may_only_mark(name):
    decided = decide(make_segments({}, BAD[name]), RulesConfig(only_mark=(name,)))
    assert decided["rule"].tolist() == ["", ""]
    assert decided["marks"].tolist() == ["", name]


def test_a_segment_counts_for_the_first_rule_that_drops_it():
    everything = {key: value for change in BAD.values() for key, value in change.items()}
    assert decide(make_segments({}, everything), RulesConfig())["rule"].tolist() == ["", "damaged"]
    marks = RulesConfig(only_mark=("damaged", "short", "small"))
    decided = decide(make_segments({}, everything), marks)
    assert (decided["rule"][1], decided["marks"][1]) == ("dark", "damaged short small")


def test_a_rule_that_is_off_drops_nothing():
    off = dict.fromkeys(RulesConfig.model_fields.keys() - {"only_mark"})
    decided = decide(make_segments({}, *BAD.values(), BAD["static"]), RulesConfig(**off))
    assert decided["rule"].tolist()[:2] == ["", "damaged"]  # it has no threshold
    assert set(decided["rule"][2:]) == {""}


def test_of_duplicates_the_largest_picture_is_kept():
    copies = make_segments({}, {}, {"short_side_px": 400}, {})
    copies["hashes"] = [copies["hashes"][0]] * 3 + [copies["hashes"][3]]
    decided = decide(copies, RulesConfig())
    assert decided["rule"].tolist() == ["duplicate", "duplicate", "", ""]
    assert decided["original"].tolist() == ["film/2", "film/2", "", ""]


def test_pictures_without_structure_are_no_duplicates():
    copies = make_segments({"hash_quality": 10}, {"hash_quality": 10})
    copies["hashes"] = [bytes(96)] * 2
    assert decide(copies, RulesConfig())["rule"].tolist() == ["", ""]


def test_a_dropped_segment_is_no_original():
    copies = make_segments({"motion": 0.0, "short_side_px": 400}, {})
    copies["hashes"] = [copies["hashes"][0]] * 2
    assert decide(copies, RulesConfig())["rule"].tolist() == ["static", ""]


def test_rules_that_drop_everything_are_named():
    rules = RulesConfig(min_motion=5)
    decided = decide(make_segments({}, {}, BAD["dark"]), rules)
    with pytest.raises(ValueError, match=r"all 3 .* 2 of them by the rule static .*min_motion 5"):
        check_something_is_kept(decided, rules)


def test_all_rules_can_only_mark():
    assert decide(make_segments({}), RulesConfig(only_mark=NAMES))["rule"].tolist() == [""]
