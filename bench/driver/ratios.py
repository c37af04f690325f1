"""What is made of the numbers: ratios to neighbouring runs, medians, intervals, verdicts.

A run's ratio is its value divided by the median of the nearest runs of the raw loop, the one before
and the one after it: what slows the machine down for a while meets all three. A cell's figure is the
median of the ratios of its rounds.

The interval of a median is the pair of order statistics (the k-th smallest and the k-th largest
ratio) that is narrowest and still holds the true median with at least 90 %, whatever the
distribution: each ratio is above the median with probability 1/2, so the chance to miss it is that
of fewer than k heads in n throws, twice. Up to four ratios give less than 90 % even for k = 1; then
the whole range is the interval, and its confidence says so.
"""

import math
import statistics

CONFIDENCE = 0.9

# So many contenders run between two runs of raw.
GROUP = 3

# Bounds from here to there are as near to the raw loop as the machine can tell.
NOISE_BAND = (1.00, 1.02)

MET = "met"
WITHIN_NOISE = "met within the noise"
MISSED = "missed"
NOT_MEASURED = "not measured"


def order(contenders, number, group=GROUP):
    """The names of one round, raw among them: raw, a group, raw, a group, ..., raw.

    The order of the contenders is rotated by one place with each round.
    """
    if not contenders:
        return ["raw", "raw"]
    turn = number % len(contenders)
    rotated = contenders[turn:] + contenders[:turn]
    names = ["raw"]
    for start in range(0, len(rotated), group):
        names += rotated[start:start + group] + ["raw"]
    return names


def to_neighbours(runs, base="raw"):
    """[(name, value)] in the order of time -> [(name, ratio)] of those that are not `base`.

    A value is divided by the median of the nearest values of `base` before and after it. What has
    no such neighbour is left out, and so are all where the neighbours are zero.
    """
    ratios = []
    for place, (name, value) in enumerate(runs):
        if name == base:
            continue
        before = next((v for n, v in reversed(runs[:place]) if n == base), None)
        after = next((v for n, v in runs[place + 1:] if n == base), None)
        near = [v for v in (before, after) if v is not None]
        if near and statistics.median(near) > 0:
            ratios.append((name, value / statistics.median(near)))
    return ratios


def coverage(count, k):
    """How surely the k-th smallest and the k-th largest of `count` values enclose the median."""
    missed = sum(math.comb(count, heads) for heads in range(k)) / 2 ** count
    return 1 - 2 * missed


def interval(values):
    """(low, high, confidence) of the median; see the head of this file."""
    ordered = sorted(values)
    k = 1
    while 2 * (k + 1) <= len(ordered) and coverage(len(ordered), k + 1) >= CONFIDENCE:
        k += 1
    return ordered[k - 1], ordered[-k], coverage(len(ordered), k)


def summary(values):
    """Median and interval, for the report."""
    low, high, confidence = interval(values)
    return {"median": statistics.median(values), "low": low, "high": high,
            "confidence": round(confidence, 3), "values": list(values)}


def reads_one(raw2):
    """Whether the raw loop under another name is 1.00 within what the run can tell."""
    return raw2 is not None and raw2["low"] <= 1 <= raw2["high"]


def verdict(measured, bound, raw2):
    """`measured`, `raw2`: summaries of ratios to raw, or None.

    A bound inside the noise band is met when the interval reaches it and raw2 reads 1.00 in the
    same cell; every other bound is for the median.
    """
    if measured is None:
        return NOT_MEASURED
    if measured["median"] <= bound:
        return MET
    inside = NOISE_BAND[0] <= bound <= NOISE_BAND[1]
    if inside and measured["low"] <= bound and reads_one(raw2):
        return WITHIN_NOISE
    return MISSED


def worst(verdicts):
    """The verdict of a row that has several cells."""
    for candidate in (MISSED, WITHIN_NOISE, MET):
        if candidate in verdicts:
            return candidate
    return NOT_MEASURED
