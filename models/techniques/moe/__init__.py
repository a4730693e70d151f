"""Mixtures of experts: how tokens get to their experts, and what experts are made of."""
