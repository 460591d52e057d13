"""Signed orders: what two people allowed a third, on one machine, for a while. Pure."""
