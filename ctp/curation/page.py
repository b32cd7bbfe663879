"""A page to judge the rules by: histograms with the thresholds, and pictures of segments."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ctp.curation.curate import Curation, Estimate
from ctp.curation.measure import Facts, measured_file, read_measured
from ctp.curation.rules import DUPLICATE, RULES, Rule, count_by_rule, describe
from ctp.curation.segments import PICTURES
from ctp.progress import duration
from ctp.rng import generator

PAGE = "_page.html"
PER_SHEET = 12
PAIRS = 6
PROBLEMS = 30
READ_AT_ONCE = 16
BINS = 60
LOG_BELOW = 0.1
"""A threshold below this share of the range is shown on a logarithmic axis."""
_TEMPLATES = Environment(
    loader=PackageLoader("ctp.curation", ""), autoescape=True, undefined=StrictUndefined
)


def write_page(
    curation: Curation,
    decided: pd.DataFrame,
    facts: Sequence[Facts],
    whole: Estimate | None = None,
) -> None:
    """Write the page of a curation, one HTML file that needs no other.

    Args:
        curation: what is curated.
        decided: the segments, from `curate.decide_all`.
        facts: of each group.
        whole: an estimate for all videos; None: there is none.
    """
    sheets = {rule.name: _choose(curation, decided, rule) for rule in RULES}
    pairs = _choose_pairs(curation, decided)
    kept = _sample(curation, decided, decided["rule"] == "", "kept")
    cropped = _sample(curation, decided, _has_bars(decided), "bars")
    chosen = [rows for pair in sheets.values() for rows in pair] + [pairs, kept, cropped]
    pictures = _read_pictures(curation, decided, {row for rows in chosen for row in rows})
    figures = _Figures(decided, pictures)
    rules = [
        _rule_section(curation, decided, rule, figures, *sheets[rule.name])
        for rule in RULES
        if _is_shown(curation, decided, rule)
    ]
    if pairs:
        rules.append(_duplicate_section(curation, decided, figures, pairs))
    text = _TEMPLATES.get_template("page.html").render(
        title=f"Curation of {curation.out.parent.uri if whole else curation.out.uri}",
        summary=_summary(decided, facts),
        whole="" if whole is None else f"Estimate for all videos: {whole.describe()}.",
        rows=_rows(curation, decided),
        rules=rules,
        kept=[figures.of(row) for row in kept],
        cropped=[figures.of_crop(row) for row in cropped],
        problems=_problems(facts)[:PROBLEMS],
    )
    curation.out.join(PAGE).write_bytes(text.encode())


class _Figures:
    """The pictures of segments, with captions."""

    def __init__(self, decided: pd.DataFrame, pictures: Mapping[int, bytes]):
        self._decided, self._pictures = decided, pictures

    def of(self, row: int, column: str = "") -> dict[str, str]:
        """Return picture and caption of a segment; the caption gives a measure, too."""
        segment = self._decided.iloc[row]
        value = f"{column} {segment[column]:.3g} · " if column else ""
        times = f"{segment['start_seconds']:.1f}–{segment['end_seconds']:.1f} s"
        return {
            "picture": _data_uri(self._pictures[row]),
            "caption": f"{value}{segment['source']} {times}",
        }

    def of_crop(self, row: int) -> dict[str, str]:
        """Return picture and caption of a segment, with its crop drawn in."""
        segment = self._decided.iloc[row]
        size, crop = segment["picture_size"], segment["crop"]
        caption = f"{crop[2]}×{crop[3]} of {size[0]}×{size[1]} px · {segment['source']}"
        picture = _draw_crop(self._pictures[row], size, crop)
        return {"picture": _data_uri(picture), "caption": caption}


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _draw_crop(jpeg: bytes, size: Sequence[int], crop: Sequence[int]) -> bytes:
    """Draw the crop into pictures that are side by side."""
    if not jpeg:
        return jpeg
    pictures: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    scale = pictures.shape[0] / size[1]
    x, y, width, height = (round(value * scale) for value in crop)
    for number in range(PICTURES):
        left = x + number * pictures.shape[1] // PICTURES
        corners = (left, y), (left + width - 1, y + height - 1)
        cv2.rectangle(pictures, *corners, (0, 220, 255))
    return cv2.imencode(".jpg", pictures)[1].tobytes()


def _has_bars(decided: pd.DataFrame) -> NDArray[np.bool_]:
    size, crop = (np.stack(decided[name].to_list()) for name in ("picture_size", "crop"))
    return np.asarray((crop[:, 2:] != size).any(1))


def _choose(curation: Curation, decided: pd.DataFrame, rule: Rule) -> tuple[list[int], list[int]]:
    """Return the rows to show of a rule: dropped and kept segments next to the threshold."""
    threshold = rule.threshold(curation.config.rules)
    if threshold is None:
        return [], []
    distance = (decided[rule.column] - threshold).abs()
    dropped = distance[decided["rule"] == rule.name].sort_values(kind="stable").index
    kept = distance[decided["rule"] == ""].sort_values(kind="stable").index
    # half next to the threshold, half from all that is dropped
    near = list(dropped[: PER_SHEET // 2])
    rest = list(dropped[PER_SHEET // 2 :])
    rng = generator(curation.config.seed, "examples", rule.name)
    far = sorted(rng.permutation(len(rest))[: PER_SHEET - len(near)].tolist())
    return near + [rest[i] for i in far], list(kept[:PER_SHEET])


def _choose_pairs(curation: Curation, decided: pd.DataFrame) -> list[int]:
    """Return rows of duplicates and their originals, by turns."""
    copies = _sample(curation, decided, decided["rule"] == DUPLICATE, "duplicates", PAIRS)
    row_of = {name: row for row, name in enumerate(decided["id"])}
    return [row for copy in copies for row in (row_of[decided["original"].iloc[copy]], copy)]


def _sample(
    curation: Curation, decided: pd.DataFrame, mask: Any, name: str, number: int = PER_SHEET
) -> list[int]:
    rows = np.flatnonzero(mask)
    rng = generator(curation.config.seed, "examples", name)
    return sorted(rng.permutation(rows)[:number].tolist())


def _read_pictures(
    curation: Curation, decided: pd.DataFrame, rows: Iterable[int]
) -> dict[int, bytes]:
    """Read the pictures of some segments; those of a group are in one file."""
    groups = curation.groups
    first = {group: index[0] for group, index in decided.groupby("group").groups.items()}
    wanted: dict[int, list[int]] = {}
    for row in sorted(rows):
        wanted.setdefault(int(decided["group"].iloc[row]), []).append(row)

    def read(number: int) -> dict[int, bytes]:
        table, _ = read_measured(measured_file(curation.out, groups[number]), ["pictures"])
        column = table["pictures"]
        return {row: column[row - first[number]].as_py() for row in wanted[number]}

    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        return {row: each for found in pool.map(read, wanted) for row, each in found.items()}


def _is_shown(curation: Curation, decided: pd.DataFrame, rule: Rule) -> bool:
    """Return whether a rule has a section: not if it is off, or asks whether anything is damaged
    and nothing is."""
    is_on = rule.threshold(curation.config.rules) is not None
    return is_on and bool(rule.option or (decided["rule"] == rule.name).any())


def _rule_section(
    curation: Curation,
    decided: pd.DataFrame,
    rule: Rule,
    figures: _Figures,
    dropped: list[int],
    kept: list[int],
) -> dict[str, Any]:
    sheets = [
        ("dropped", "Dropped: nearest to the threshold, then at random", dropped),
        ("kept", "Kept, nearest to the threshold", kept),
    ]
    return {
        "name": rule.name,
        "setting": describe(rule.name, curation.config.rules),
        "dropped": int((decided["rule"] == rule.name).sum()),
        "histogram": _histogram(decided, rule, rule.threshold(curation.config.rules) or 0.0),
        "sheets": [
            {
                "kind": kind,
                "title": title,
                "groups": [[figures.of(row, rule.column)] for row in rows],
            }
            for kind, title, rows in sheets
            if rows
        ],
    }


def _duplicate_section(
    curation: Curation, decided: pd.DataFrame, figures: _Figures, pairs: list[int]
) -> dict[str, Any]:
    groups = [
        [figures.of(row) for row in pair] for pair in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return {
        "name": DUPLICATE,
        "setting": describe(DUPLICATE, curation.config.rules),
        "dropped": int((decided["rule"] == DUPLICATE).sum()),
        "histogram": "",
        "sheets": [{"kind": "dropped", "title": "Kept and dropped", "groups": groups}],
    }


def _histogram(decided: pd.DataFrame, rule: Rule, threshold: float) -> str:
    """Return a histogram of a measure over all segments as SVG, with its threshold."""
    values = decided[rule.column].to_numpy(float)
    high = max(float(np.quantile(values, 0.99)), 2 * threshold, 1e-6)
    low, bins = 0.0, np.linspace(0, high, BINS + 1)
    if 0 < threshold < LOG_BELOW * high:
        low = threshold * LOG_BELOW
        bins = np.geomspace(low, high, BINS + 1)
    figure = Figure(figsize=(7.5, 1.9), layout="constrained")
    axes = figure.subplots()
    axes.hist(values.clip(bins[0], bins[-1]), bins=bins.tolist(), color="#7f9cb5")
    side = (low, threshold) if rule.drops_below else (threshold, high)
    axes.axvspan(*side, color="#aa1111", alpha=0.12)
    axes.axvline(threshold, color="#aa1111")
    axes.set_xscale("log" if low else "linear")
    axes.set_xlim(low, high)
    ends = "the first and the last bar hold" if low else "the last bar holds"
    axes.set_xlabel(f"{rule.column.replace('_', ' ')}, {rule.unit}; {ends} all beyond")
    axes.set_ylabel("segments")
    axes.spines[["top", "right"]].set_visible(False)
    sink = io.StringIO()
    figure.savefig(sink, format="svg")
    text = sink.getvalue()
    return text[text.index("<svg") :]


def _rows(curation: Curation, decided: pd.DataFrame) -> list[dict[str, str]]:
    counts = count_by_rule(decided)
    total = max(len(decided), 1)
    rules = curation.config.rules
    named = [(rule.name, describe(rule.name, rules)) for rule in RULES]
    named = [
        each for each, rule in zip(named, RULES, strict=True) if rule.threshold(rules) is not None
    ]
    if rules.max_hash_distance is not None:
        named.append((DUPLICATE, describe(DUPLICATE, rules)))
    rows = []
    for name, setting in [*named, ("", "")]:
        number, seconds = counts.get(name, (0, 0.0))
        rows.append(
            {
                "name": name or "kept",
                "anchor": name if number else "",
                "setting": setting,
                "segments": f"{number:,}",
                "hours": f"{seconds / 3600:.3g}",
                "share": f"{number / total:.1%}",
            }
        )
    return rows


def _summary(decided: pd.DataFrame, facts: Sequence[Facts]) -> str:
    videos, seconds = (sum(getattr(each, name) for each in facts) for name in ("videos", "seconds"))
    broken = sum(len(each.quarantined) for each in facts)
    return (
        f"{videos} raw videos, {duration(seconds)} in all; {broken} of them cannot be used. "
        f"{len(decided)} segments; {_has_bars(decided).sum()} of them have black bars."
    )


def _problems(facts: Sequence[Facts]) -> list[tuple[str, str]]:
    broken = [(each["id"], each["reason"]) for fact in facts for each in fact.quarantined]
    damaged = [(name, "; ".join(lines)) for fact in facts for name, lines in fact.damage.items()]
    return broken + damaged
