"""The table of results on MLflow's web page: which runs, and which of their columns."""

VIEW = "results"
COLUMNS = {  # after the name and time of a run, which MLflow does not move
    "metrics.`mae`": 90,
    "metrics.`mae_ci_low`": 95,
    "metrics.`mae_ci_high`": 100,
    "attributes.`Description`": 420,
    "metrics.`rmse`": 70,
    "metrics.`accuracy`": 80,
    "attributes.`Models`": 200,
    "params.`train.learning_rate`": 100,
    "params.`evaluate.decode`": 100,
}
"""The columns in their order, and their widths in pixels."""
# The table at #/experiments/ID/runs?viewStateShareKey=results, in the format of MLflow's web page.
VIEW_STATE = {
    "searchFilter": "tags.stage = 'result'",
    "orderByKey": "metrics.`mae`",
    "orderByAsc": True,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "selectedColumns": list(COLUMNS),
    "columnOrder": list(COLUMNS),
    "columnWidths": COLUMNS,
}
