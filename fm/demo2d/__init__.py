"""The 2-D demonstration: the same network on the OT and the VP path of one distribution, measured and drawn."""
