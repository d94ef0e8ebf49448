"""Studies: for each system the experiment that shows its claim at a small scale, and the harness that runs it honestly.

A study is one file: what is compared, how it is measured, and a criterion that is fixed before anything runs. What belongs
here beside the studies serves all of them: running, judging, drawing, and the table in the documentation.
"""

from plaudit.studies.catalogue import STUDIES, find_study
from plaudit.studies.running import run_study
from plaudit.studies.study import Budget, Finding, Results, Study, Trial, TrialResult, better, equivalent, ranked_alike

__all__ = [
    "STUDIES",
    "Budget",
    "Finding",
    "Results",
    "Study",
    "Trial",
    "TrialResult",
    "better",
    "equivalent",
    "find_study",
    "ranked_alike",
    "run_study",
]
