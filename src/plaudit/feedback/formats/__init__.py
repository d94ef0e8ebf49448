"""Feedback in the files of others: read from and written to the formats that people already have.

Two things vary independently. A *container* is how rows lie in a file: JSON Lines, a JSON array, CSV, Parquet, a
Hugging Face data set (`lines`, `arrays`, `tables`, `parquet`, `hub`; chosen in `containers`). A *format* is what the
columns of a row say (`native`, `trl_preference`, `trl_single`, `ranked`, `hh_rlhf`, `ultrafeedback`, `qa_feedback`,
`thumbs`; listed in `registry`). A new format is one module with a `Format` and one line in the registry.

    >>> from plaudit.feedback.formats import read, write
    >>> records = [found.record for found in read("votes.csv") if isinstance(found, Parsed)]
    >>> write(records, "pairs.jsonl", format="trl-preference")
    ExportReport(written=118, dropped=Counter({'a reaction': 4}), rows=118)
"""

from plaudit.feedback.formats.format import Format, NotHeld
from plaudit.feedback.formats.reading import Reading, read
from plaudit.feedback.formats.registry import FORMATS, detect
from plaudit.feedback.formats.rows import RowContext, RowError
from plaudit.feedback.formats.writing import ExportReport, write
from plaudit.feedback.ingest import Parsed, Reject

__all__ = [
    "FORMATS",
    "ExportReport",
    "Format",
    "NotHeld",
    "Parsed",
    "Reading",
    "Reject",
    "RowContext",
    "RowError",
    "detect",
    "read",
    "write",
]
