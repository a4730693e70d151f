"""Pure optimisation: numbers in; assignment, bound and gap out. Knows nothing else of the package."""
