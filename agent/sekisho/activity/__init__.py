"""Audit records to events to detections. Pure."""
