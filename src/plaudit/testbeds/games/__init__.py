"""Preference games with few actions, in which everything is known: matrices, equilibria, and algorithms that learn.

What belongs here is exact: games whose preference is a table, the distances of a policy to the equilibrium, and the algorithms
of Nash learning as exact updates and from samples.
"""

from plaudit.testbeds.games.equilibrium import descent_radius, equilibrium, gap, span
from plaudit.testbeds.games.matrices import (
    ROCK_PAPER_SCISSORS,
    Game,
    check_preference,
    cyclic,
    population,
    random_ten,
    side_by_side,
    skewed,
    transitive,
    uniform_preference,
)
from plaudit.testbeds.games.play import (
    Algorithm,
    Course,
    Exact,
    Oracle,
    exact_egpo,
    exact_nash_md,
    exact_nash_mp,
    exact_online_ipo,
    play,
)
from plaudit.testbeds.games.sampled import EGPO, INPO, SPPO, NashMD, NashMP, OnlineIPO

__all__ = [
    "EGPO",
    "INPO",
    "ROCK_PAPER_SCISSORS",
    "SPPO",
    "Algorithm",
    "Course",
    "Exact",
    "Game",
    "NashMD",
    "NashMP",
    "OnlineIPO",
    "Oracle",
    "check_preference",
    "cyclic",
    "descent_radius",
    "equilibrium",
    "exact_egpo",
    "exact_nash_md",
    "exact_nash_mp",
    "exact_online_ipo",
    "gap",
    "play",
    "population",
    "random_ten",
    "side_by_side",
    "skewed",
    "span",
    "transitive",
    "uniform_preference",
]
