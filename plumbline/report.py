"""Read results in a notebook: `results`, `curves` and `samples` of a folder results/<study>, as data frames."""

from workflow_scripts.report.frames import curves, results, samples

__all__ = ["curves", "results", "samples"]
