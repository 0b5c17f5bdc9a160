"""Rows, records and images -> pictures and one self-contained page of HTML. It measures nothing."""

from fm.report.page import Pictures, write_report

__all__ = ["Pictures", "write_report"]
