"""Machines: the services that flows talk to, started and stopped on this one. Nothing else knows a port."""
