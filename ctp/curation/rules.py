"""Decide which segments are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctp.curation.config import RuleName, RulesConfig
from ctp.curation.duplicates import find_duplicates
from ctp.curation.segments import HASH_BYTES, HASHED_AT

MIN_HASH_QUALITY = 50
"""Pictures of a lower quality have too little structure to be recognised by their hash."""


@dataclass(frozen=True)
class Rule:
    """A rule that compares one column with a threshold.

    Attributes:
        name: of the rule.
        option: of the threshold, in `RulesConfig`.
        column: the measure.
        unit: of measure and threshold, for people.
        drops_below: whether segments below the threshold are dropped; otherwise those above.
    """

    name: RuleName
    option: str
    column: str
    unit: str
    drops_below: bool

    def threshold(self, rules: RulesConfig) -> float | None:
        """Return the threshold; None if the rule is switched off."""
        if not self.option:
            return 0.0
        value: float | None = getattr(rules, self.option)
        return value

    def takes(self, segments: pd.DataFrame, threshold: float) -> NDArray[np.bool_]:
        """Return which segments the rule drops, bool [N]."""
        values: NDArray[Any] = segments[self.column].to_numpy()
        return np.asarray(values < threshold if self.drops_below else values > threshold)


RULES = (
    Rule("damaged", "", "damaged_share", "share of frames", False),
    Rule("short", "min_seconds", "seconds", "s", True),
    Rule("small", "min_short_side_px", "short_side_px", "px", True),
    Rule("dark", "min_brightness", "brightness", "mean luma, 0 to 1", True),
    Rule("static", "min_motion", "motion", "picture widths/s", True),
    Rule("shaky", "max_shake", "shake", "picture widths/s", False),
    Rule("text", "max_text_share", "text_share", "share of the picture", False),
)
"""In the order in which they are applied: a segment counts for the first rule that drops it. Last
comes `duplicate`, which compares the segments that are left."""
DUPLICATE: RuleName = "duplicate"
NAMES: tuple[RuleName, ...] = (*(rule.name for rule in RULES), DUPLICATE)


def decide(segments: pd.DataFrame, rules: RulesConfig) -> pd.DataFrame:
    """Add the columns that say what becomes of each segment.

    Args:
        segments: a row for each segment, with the columns of `segments.SCHEMA` that rules read.
        rules: the rules.

    Returns:
        the segments with the columns: `seconds`; `rule`, the rule that drops it or ""; `marks`, the
        names of rules that only mark and would have dropped it, joined by spaces; `original`, id of
        the segment that it is a duplicate of, or "".
    """
    decided = segments.reset_index(drop=True)
    decided["seconds"] = decided["end_seconds"] - decided["start_seconds"]
    dropped = np.full(len(decided), "", object)
    marks = np.full(len(decided), "", object)
    for name, taken, original in _verdicts(decided, rules, dropped):
        column = marks if name in rules.only_mark else dropped
        free = taken & (dropped == "")
        column[free] = [f"{each} {name}".strip() for each in column[free]]
        if original is not None:
            decided["original"] = np.where(free, original, "")
    decided["rule"], decided["marks"] = dropped, marks
    return decided


def check_something_is_kept(segments: pd.DataFrame, rules: RulesConfig) -> None:
    """Check that the rules keep a segment.

    Raises:
        ValueError: they keep none; names the rule that drops most, and its option.
    """
    if (segments["rule"] == "").any():
        return
    counts = segments["rule"].value_counts()
    name = str(counts.index[0])
    raise ValueError(
        f"all {len(segments)} segments are dropped, {counts.iloc[0]} of them by the rule {name} "
        f"({describe(name, rules)}). Change it, or let it only mark: --rules.only_mark {name}"
    )


def describe(name: str, rules: RulesConfig) -> str:
    """Return a rule's option and threshold, for example `rules.min_motion 0.01`."""
    option = "max_hash_distance"
    if name != DUPLICATE:
        option = next(each.option for each in RULES if each.name == name)
    if not option:
        return "frames that may show damage"
    value = getattr(rules, option)
    return f"rules.{option} {'none' if value is None else f'{value:g}'}"


def count_by_rule(segments: pd.DataFrame) -> Mapping[str, tuple[int, float]]:
    """Return for each rule, and "" for what is kept: the segments and their seconds."""
    groups = segments.groupby("rule")["seconds"]
    return {str(name): (len(each), float(each.sum())) for name, each in groups}


def _verdicts(
    segments: pd.DataFrame, rules: RulesConfig, dropped: NDArray[Any]
) -> Iterator[tuple[RuleName, NDArray[np.bool_], NDArray[Any] | None]]:
    """Yield for each rule which segments it takes; duplicates also with their originals."""
    for rule in RULES:
        threshold = rule.threshold(rules)
        if threshold is not None:
            yield rule.name, rule.takes(segments, threshold), None
    original = np.full(len(segments), "", object)
    if rules.max_hash_distance is not None:
        left = np.flatnonzero(
            (dropped == "") & (segments["hash_quality"].to_numpy() >= MIN_HASH_QUALITY)
        )
        found = _originals(segments.iloc[left], rules.max_hash_distance)
        copies = found >= 0
        original[left[copies]] = segments["id"].to_numpy()[left[found[copies]]]
    yield DUPLICATE, original != "", original


def _originals(segments: pd.DataFrame, max_distance: int) -> NDArray[np.int64]:
    """Return the row of the original of each segment, or -1."""
    joined = b"".join(segments["hashes"])
    hashes = np.frombuffer(joined, np.uint8).reshape(len(segments), len(HASHED_AT), HASH_BYTES)
    # the largest picture first, then the longest segment, then the id
    order = segments.reset_index(drop=True).sort_values(
        ["short_side_px", "seconds", "id"], ascending=[False, False, True]
    )
    rank = np.empty(len(segments), np.int64)
    rank[order.index.to_numpy()] = np.arange(len(segments))
    return find_duplicates(hashes, rank, max_distance)
