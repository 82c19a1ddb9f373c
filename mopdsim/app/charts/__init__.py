"""Vega-Lite specifications of the app's charts, as plain data over the tables of `mopdsim.app.tables.frames`.

A specification depends on what is shown, not on its numbers, so that a redraw only swaps rows. Colours come from the
theme (`.streamlit/config.toml`); meaning never hangs on colour alone. Leaves out: the tables, the alternative texts.
"""

from mopdsim.app.charts.couplings import heat_map, signed_graph
from mopdsim.app.charts.forecasts import cost_per_stage, gantt, ranking, scores, stage_costs, waterfall
from mopdsim.app.charts.measured import cost_split, pass_rates, predicted, residuals, training
from mopdsim.app.charts.plans import domain_scores, frontier, gpus_in_use, plans, sobol

__all__ = [
    "cost_per_stage",
    "cost_split",
    "domain_scores",
    "frontier",
    "gantt",
    "gpus_in_use",
    "heat_map",
    "pass_rates",
    "plans",
    "predicted",
    "ranking",
    "residuals",
    "scores",
    "signed_graph",
    "sobol",
    "stage_costs",
    "training",
    "waterfall",
]
