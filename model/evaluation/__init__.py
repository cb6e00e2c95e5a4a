"""Figures of predictions against labels, and the report made of them.

Used by `cxr-train evaluate` and by `cxr-worker validate`. scikit-learn and matplotlib, which
the extra `evaluate` brings, are imported only inside functions.
"""
