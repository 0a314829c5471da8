"""Numbers in the text come from the ledger: `python docs/ledger_numbers.py` writes them anew.

A number stands between two comments, the first of which says which row of figures/records/ledger.csv it is:

    <!-- claim=10 n_train=256 paradigm=accumulate space=pixel says="same direction" -->0.63 times<!-- / -->

One row must match; the reading is `last` where none is said. `says` is the verdict that the words around the
number were written for, `sure` (yes or no) whether it survives Holm's correction: where the records say
otherwise this is an error, and the words must be written anew.
`show` names another column than the difference with its interval. The table of all claims stands between
`<!-- ledger -->` and `<!-- /ledger -->`. Of figures/records/rule.csv, when selection helps,
`<!-- rule space=pixel -->` is the break-even novelty, and the table of its test stands between
`<!-- tested -->` and `<!-- /tested -->`."""

import re
import shlex
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from collapse_nb.ledger import ledger_lines, size_text  # noqa: E402
from collapse_nb.regime import rule_lines  # noqa: E402

PLACE = re.compile(r"<!-- (claim=[^>]*?) -->(.*?)<!-- / -->", re.S)
LIMIT = re.compile(r"<!-- rule space=(\w+) -->.*?<!-- / -->", re.S)
TABLE = re.compile(r"<!-- (ledger|tested) -->.*?<!-- /\1 -->", re.S)
FILES = "README.md", "docs/findings.md"


def number(
    words: str,  # inside the first comment
    ledger: pd.DataFrame,  # of `make_ledger`
) -> str:
    "What stands there. Raises ValueError where no row or several match, or the verdict is another."
    where = dict(part.split("=", 1) for part in shlex.split(words))
    says, sure, show = (where.pop(k, None) for k in ("says", "sure", "show"))
    rows = ledger[ledger.reading == where.pop("reading", "last")]
    for column, value in where.items():
        rows = rows[rows[column].astype(str) == value]
    if len(rows) != 1:
        raise ValueError(f"{words!r}: {len(rows)} rows of the ledger (allowed: one)")
    row = rows.iloc[0]
    if says and row.verdict != says:
        found = f"{row.verdict!r}: {size_text(row)}"
        raise ValueError(f"{words!r}: the records say {found} (write the words around it anew)")
    if sure and (sure == "yes") != (row.holm < 0.05):
        raise ValueError(f"{words!r}: the records say p = {row.holm:.3g} after Holm's correction")
    if show:
        return f"{row[show]:.2f}" if abs(row[show]) < 10 else f"{row[show]:,.0f}"
    return size_text(row)


def limit(space: str, rule: pd.DataFrame) -> str:
    "The break-even novelty in a space, and how far it moves with one regime left out."
    row = rule[rule.space == space].iloc[0]
    return f"{row.break_even:.2f} ({row.least:.2f} to {row.most:.2f})"


def fill(text: str, ledger: pd.DataFrame) -> str:
    "The text with every number, and the tables, as the ledger and the rule have them."
    rule = pd.read_csv(ROOT / "figures" / "records" / "rule.csv")
    tables = dict(ledger="\n".join(ledger_lines(ledger)), tested="\n".join(rule_lines(rule)))
    text = TABLE.sub(lambda m: f"<!-- {m[1]} -->\n\n{tables[m[1]]}\n\n<!-- /{m[1]} -->", text)
    text = LIMIT.sub(lambda m: f"<!-- rule space={m[1]} -->{limit(m[1], rule)}<!-- / -->", text)
    return PLACE.sub(lambda m: f"<!-- {m[1]} -->{number(m[1], ledger)}<!-- / -->", text)


def read_ledger() -> pd.DataFrame:
    "The committed one."
    whole = dict.fromkeys(("n_train", "train_steps", "iteration", "seeds"), "Int64")
    return pd.read_csv(ROOT / "figures" / "records" / "ledger.csv", dtype=whole).fillna(dict(base=""))


if __name__ == "__main__":
    ledger = read_ledger()
    for name in FILES:
        path = ROOT / name
        path.write_text(fill(path.read_text(), ledger))
