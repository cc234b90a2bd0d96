"""The measured claims: the long form of the phantom experiment, resumable at every step. `make evidence` runs it; its records are committed.

Writes evidence/ (cohort, store, runs) and copies what was measured to benchmarks/records/: evidence_summary.json, plan.json, scores.csv,
grounding_*.csv and the history of every run.
"""

import shutil
from pathlib import Path

import pandas as pd

from asapkit import evidence

RECORDS = Path(__file__).parent / "records"


def main(out: Path = Path("evidence")) -> None:
    result = evidence.experiment(out, plan=evidence.EVIDENCE)
    RECORDS.mkdir(exist_ok=True)
    shutil.copy(out / "summary.json", RECORDS / "evidence_summary.json")
    for file in (out / "plan.json", out / "scores.csv", *sorted(out.glob("grounding_*.csv")), *sorted(out.glob("grounding_*.json"))):
        shutil.copy(file, RECORDS / file.name)
    runs = sorted(p for p in (out / "runs").iterdir() if (p / "history.csv").exists())
    history = pd.concat([pd.read_csv(run / "history.csv").assign(run=run.name) for run in runs], ignore_index=True)
    history.round(5).to_csv(RECORDS / "history.csv", index=False)
    print(evidence.closing_table(result, [], out))


if __name__ == "__main__":
    main()
