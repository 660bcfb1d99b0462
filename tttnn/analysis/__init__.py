"""What result rows say: values, intervals, comparisons and verdicts; no charts, no models."""
