"""Item scores to results.csv, figures and the HTML report."""
