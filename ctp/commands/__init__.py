"""The commands: options and parsing of each. `ctp.commands.work` does what needs torch."""

RUN_OPTIONS = (
    "name",
    "storage",
    "seed",
    "data.uri",
    "optimizer.learning_rate",
    "schedule.unit",
    "schedule.length",
    "compute.total_batch",
    "compute.precision",
    "scaling.num_workers",
    "scaling.use_gpu",
    "scaling.num_actors",
)
"""The options of every training run that `--help` shows."""
