"""Drivers: they carry out the effects the layers below and above ask for, and decide nothing."""
