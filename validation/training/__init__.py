"""Training steps against published runs: each row of the tables as a scenario, its prediction, and what is learnt."""
