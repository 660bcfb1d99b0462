"""Analysis: result rows, archived and published ones among them -> intervals, comparisons, claims and verdicts.

It draws nothing and runs no model: :mod:`tttnn.report` shows what is computed here.
"""
