"""How to read each figure, in a few sentences."""

from __future__ import annotations

LOSSES = (
    "Training loss over the optimizer steps, as it was logged and smoothed, and the loss of the evaluations. The "
    "ribbon shows which candidate made the steps: its colour is the optimizer family, and within a family the "
    "shade is the darker the larger the learning rate. A tick below it is a switch, a cross above it a cycle that was "
    "undone."
)
METRICS = "Metrics of the evaluations."
SHARES = (
    "The share of the steps so far, from the first step on. A band that grows is a candidate that the selection has "
    "turned to."
)
RATES = "The learning rate that each cycle began with: the candidate's own times the schedule."
# Where there was a race.
METRICS_RACE = " Those within the shaded race saw whichever candidate happened to be racing."
SHARES_RACE = " In the race all candidates get about as many."
RATES_RACE = " The race runs at the candidates' own rates."
CALIBRATION = (
    "Each point is a cycle: to the right what the surrogate expected of it, with a bar of two standard deviations on "
    "either side, upwards what came. On the dashed line both are equal. A surrogate that knows something has points "
    "that rise to the right; one that knows how much it knows has 95 % of the bars cross the line."
)
TIMES = (
    "Training with its evaluations and checkpoints; selection, which is the range test, choosing, and judging with "
    "all probes of the race; and the assessment, which measures ω_t before the first step."
)
TRANSFERABILITY = (
    "ω_t is the weighted mean of the bars above it (Eq. 6): the performance before tuning, and the sigmoid σ of what "
    "the features say."
)
RUN_LOSSES = "Smoothed training losses as lines, losses of the evaluations as points."
RUN_METRIC = "The metric that most of the runs have evaluated; the table above has the others."
RUN_SHARES = "The share of the steps that each candidate made, in each run."
