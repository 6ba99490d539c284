"""Scoring: the champion answers, others run beside it, and every answer has its receipt."""
