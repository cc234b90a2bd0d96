"""A table of runs in sentences: which there are, what they took, which is best, what became of the lost ones."""

from __future__ import annotations

import pandas as pd

from asapkit.runs import duration, tally


def answer(table: pd.DataFrame) -> str:
    """In sentences: which runs there are, what they took, which probe is best, and what came of those that were lost."""
    if table.empty:
        return "There is no run yet: `asapkit pretrain` makes one."
    one, state = len(table) == 1, table["state"].iloc[0]
    ended = {"running": "it is running", "stopped": "it was stopped", "damaged": "its folder is damaged", "unknown": "how it ended is unknown"}
    said = [f"There is one run, `{table.index[0]}`: {ended.get(state, f'it {state}')}." if one else f"There are {tally(table)}."]
    seconds = table["seconds"].dropna() if "seconds" in table else table["steps"].head(0)
    if took := duration(float(seconds.sum())) if len(seconds) else "":
        said.append(f"It trained for {took}." if one else f"The recorded training took {took} in all.")
    else:
        said.append(f"{'Its' if one else 'Their'} training time is not recorded.")
    said.append(_best(table, one=one))
    said += _dependence(table)
    for name, row in table[table["state"].isin(["crashed", "damaged"])].iterrows():
        said.append(f"`{name}` {'crashed' if row['state'] == 'crashed' else 'is damaged'}: {row['reason'].rstrip('.') or 'it does not say why'}.")
    return " ".join(said)


def _dependence(table: pd.DataFrame) -> list[str]:
    """Whether the alignment looks at the patient, a sentence for every run of which that was measured."""
    measured = table.dropna(subset=["rise", "rise_low", "rise_high"]) if "rise" in table else table.head(0)
    verdict = {True: "it looks at the patient", False: "no sign that it looks at the patient"}
    rises = [(r.Index, f"{r.rise:.2f} ({r.rise_low:.2f} to {r.rise_high:.2f})", verdict[r.rise_low > 0]) for r in measured.itertuples()]
    return [f"`{name}`: its alignment loss rises by {rise} when images are exchanged: {sees}." for name, rise, sees in rises]


def _best(table: pd.DataFrame, *, one: bool) -> str:
    scored = table.dropna(subset=["probe"]).sort_values("probe", ascending=False) if "probe" in table else table.head(0)
    ends = [f" ({r.probe_low:.3f} to {r.probe_high:.3f})" if r.probe_low <= r.probe_high else "" for r in scored.itertuples()]
    reached = [f"{value:.3f}{end}" for value, end in zip(scored.get("probe", []), ends, strict=True)]
    if not reached:
        more = "" if one else ", and losses of different recipes cannot be compared"
        return f"No probe's score lies beside {'it' if one else 'them'} yet: `asapkit evaluate` writes some{more}."
    if len(reached) == 1:
        return f"Its probe reaches {reached[0]}." if one else f"Only `{scored.index[0]}` has a probe: {reached[0]}."
    apart = scored["probe_low"].iloc[0] > scored["probe_high"].iloc[1]
    told = f"their intervals {'lie apart' if apart else 'overlap, so the order may be chance'}"
    why = told if all(ends[:2]) else "without both intervals the order may be chance"
    return f"The best probe is that of `{scored.index[0]}`, {reached[0]}, before `{scored.index[1]}`, {reached[1]}; {why}."
