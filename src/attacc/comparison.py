"""Public: comparisons that a study file describes, with options in place of some of its keys."""

from attacc.study.compare import Comparison, compare_study
from attacc.study.specification import StudySpec, load_study

__all__ = ["Comparison", "StudySpec", "compare_study", "load_study"]
