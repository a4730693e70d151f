"""Search for plans: every legal one enumerated, costed in arrays, ranked, and the ranking explained."""
