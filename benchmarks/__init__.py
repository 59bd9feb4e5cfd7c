"""Paired measurements, reported as ratios: what a choice costs on this machine."""
